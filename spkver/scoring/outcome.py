"""What a stage found out, for a person and for a program."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The same twice.

    Attributes:
        text: for a terminal.
        record: what JSON can hold, every figure with all its digits.
    """

    text: str
    record: dict[str, Any]

    def __str__(self) -> str:
        return self.text
