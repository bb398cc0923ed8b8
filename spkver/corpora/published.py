"""What a corpus should hold: its published counts, and what a copy of it lacks.

A copy that lost a part unpacks, trains and scores as if nothing were wrong; its figures are those of another corpus.
"""

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from spkver.data.directory import DataDirectory, Utterance
from spkver.errors import SpkverError

_MOST_NAMED = 3


@dataclass(frozen=True)
class Published:
    """The counts that a corpus's authors give; ``speakers`` is None where they give none."""

    speakers: int | None
    utterances: int

    def __str__(self) -> str:
        speakers = "" if self.speakers is None else f"{self.speakers:,} speakers and "
        return f"{speakers}{self.utterances:,} utterances"


def check_published(
    place: str | os.PathLike[str],
    utterances: Sequence[Utterance],
    published: Published,
    missing: Collection[str] = (),
    partial: bool = False,
) -> None:
    """Hold what was found to the published counts.

    Args:
        place: where it was found, for the message.
        utterances: all that were found there.
        published: what should be there.
        missing: what the corpus's own lists name and the copy does not have.
        partial: tell it on standard error and go on.

    Raises:
        SpkverError: the counts differ or something is missing, and ``partial`` is not set; or nothing was found.
    """
    found = Published(None if published.speakers is None else len({u.speaker for u in utterances}), len(utterances))
    if found == published and not missing:
        return
    lacking = f"; missing: {named(missing)}" if missing else ""
    tell_incomplete(f"{place}: {found}, published are {published}{lacking}", partial and bool(utterances))


def tell_incomplete(fault: str, partial: bool) -> None:
    """A fault of a copy: an error, or with ``partial`` a line on standard error."""
    if not partial:
        raise SpkverError(f"{fault}; get what is missing, or go on with what is there by --partial")
    print(f"{fault}; going on with what is there", file=sys.stderr)


def named(names: Collection[str]) -> str:
    """The first few of some names, and how many more there are."""
    first = sorted(names)[:_MOST_NAMED]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")


def described(data: DataDirectory) -> str:
    """A data directory in a few words."""
    return f"{len(data.speakers):,} speakers ({len(data.utterances):,} utterances)"


def refuse_shared_speakers(folder: Path, train: DataDirectory, test: DataDirectory) -> None:
    """A speaker who is trained on and tested makes every figure too good.

    Raises:
        SpkverError: names one of them.
    """
    both = set(train.speakers) & set(test.speakers)
    if both:
        raise SpkverError(
            f"{folder}: {named(both)} would be in the training and in the test set; choose parts that share no speaker"
        )
