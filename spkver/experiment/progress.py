"""How far a long run is: a bar in a terminal, a line now and then elsewhere."""

import sys
import time

from tqdm import tqdm

# A line at most this often, in seconds, where there is no terminal.
_LINE_EVERY = 60.0


class Progress:
    """Shows how much of a run is done, while it is entered.

    Args:
        title: of the bar, and at the beginning of each line.
        total: how many there are to do.
        unit: of what, as ``step``.
        done: so many are done already.
    """

    quiet = False  # in processes for which another one speaks

    def __init__(self, title: str, total: int, unit: str, done: int = 0):
        self._title, self._total, self._unit, self._done = title, total, unit, done
        self._bar = tqdm(total=total, initial=done, desc=title, unit=unit, leave=False, disable=self.quiet or None)
        self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def show(self, n: int, figures: str) -> None:
        """Count ``n`` more, and show some figures behind the count."""
        self._done += n
        if not self._bar.disable:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(n)
        elif not self.quiet and time.monotonic() - self._said > _LINE_EVERY:
            done = f"{self._unit} {self._done}/{self._total}"
            print(f"{self._title}  {done}  {figures}", file=sys.stderr, flush=True)
            self._said = time.monotonic()
