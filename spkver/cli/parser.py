"""How every verb reads its command line: paths, options and ``key.sub=value`` overrides, in any order.

- argparse alone fills positional arguments from the words before the first option and refuses those behind it, and
  an option of several values swallows the paths that follow it. So the words are sorted first: options with their
  values, then the others in their order.
- ``lr=0.1`` may be an override or the folder of an experiment, and ``--by gender exp/mini`` may end in a condition or
  in an experiment. Such a word is a positional argument where one would be missing and a path of that name exists.
"""

import argparse
import os
import re

from spkver.errors import did_you_mean

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")


DEVICES = "where the encoder computes: cpu, cuda, cuda:1, or auto, a GPU where there is one"


class VerbParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that takes words in any order."""

    _overrides: tuple[str, ...] = ()

    def __init__(self, **settings) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def add_overrides(self, metavar: str, help: str) -> None:
        """Let a verb take words such as ``key.sub=value`` as ``options.overrides``; to be added last."""
        # With a default: argparse would ask for at least one where another argument is missing.
        self.add_argument("overrides", nargs="*", default=[], metavar=metavar, help=help)

    def parse_known_args(self, args=None, namespace=None):
        if args is None or any(action.nargs == argparse.PARSER for action in self._actions):
            return super().parse_known_args(args, namespace)
        words = list(args)
        positional, options, self._overrides = self._sorted(words)
        parsed, rest = super().parse_known_args([*options, *["--"] * bool(positional), *positional], namespace)
        if self._takes_overrides():
            rest = [*rest, *parsed.overrides]  # more words than arguments
            parsed.overrides = list(self._overrides)
        if rest:  # here and not in the parser of all verbs, which does not know this one's options
            known = [string for action in self._actions for string in action.option_strings]
            stranger = next((word for word in rest if _is_option(word)), "")
            self.error(f"unrecognized arguments: {' '.join(rest)}{did_you_mean(stranger.partition('=')[0], known)}")
        return parsed, rest

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            there = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"no '{value}'{did_you_mean(str(value), action.choices)}: {there}")

    def error(self, message: str):
        if self._overrides and re.search("required:(.*,)? [^-]", message):
            message += f" (taken for overrides, as no path has that name: {' '.join(self._overrides)})"
        super().error(message)

    def _sorted(self, words: list[str]) -> tuple[list[str], list[str], tuple[str, ...]]:
        """The words of the positional arguments, of the options with their values, and the overrides."""
        free, swallowed = self._loose(words)
        overrides = [i for i in free if self._takes_overrides() and _OVERRIDE.match(words[i])]
        plain = sorted({*free} - {*overrides})
        wanted = [action for action in self._actions if not action.option_strings and action.dest != "overrides"]
        missing = len(words) if any(a.nargs == argparse.ONE_OR_MORE for a in wanted) else len(wanted) - len(plain)
        paths = [i for i in overrides if _is_path(words[i])][: max(missing, 0)]
        given_back = [i for i in swallowed if _is_path(words[i])]
        given_back = given_back[max(len(given_back) - max(missing - len(paths), 0), 0) :]
        positional, loose = sorted([*plain, *paths, *given_back]), {*free, *given_back}
        return (
            [words[i] for i in positional],
            [word for i, word in enumerate(words) if i not in loose and word != "--"],
            tuple(words[i] for i in overrides if i not in paths),
        )

    def _loose(self, words: list[str]) -> tuple[list[int], list[int]]:
        """Places of the words that belong to no option, and of those that an option takes beside its first value."""
        free: list[int] = []
        swallowed: list[int] = []
        i = 0
        while i < len(words):
            if words[i] == "--":
                return [*free, *range(i + 1, len(words))], swallowed
            option = self._option(words[i])
            if option is None and not _is_option(words[i]):
                free.append(i)
            i += 1
            if option is None or "=" in words[i - 1]:
                continue
            values = self._values(option, words, i)
            swallowed += range(i + 1, i + values)
            i += values
        return free, swallowed

    def _option(self, word: str) -> argparse.Action | None:
        """The option that a word names, by a beginning of its name as well."""
        name = word.partition("=")[0]
        options = {string: action for action in self._actions for string in action.option_strings}
        found = {options[name]} if name in options else {options[o] for o in options if o.startswith(name)}
        return found.pop() if name.startswith("-") and len(found) == 1 else None

    def _values(self, option: argparse.Action, words: list[str], start: int) -> int:
        """How many words from ``start`` on are the option's values."""
        if option.nargs is None:
            return 1
        if option.nargs == 0:
            return 0
        stop = start
        most = start + 1 if option.nargs == argparse.OPTIONAL else len(words)
        while stop < min(most, len(words)) and not _is_option(words[stop]) and self._fits(option, words[stop]):
            stop += 1
        return stop - start

    def _fits(self, option: argparse.Action, word: str) -> bool:
        """Whether a word can be one of an option's values."""
        if self._takes_overrides() and _OVERRIDE.match(word):
            return False
        try:
            if callable(option.type):
                option.type(word)
        except (ValueError, argparse.ArgumentTypeError):
            return False
        return True

    def _takes_overrides(self) -> bool:
        return any(action.dest == "overrides" and not action.option_strings for action in self._actions)


def _is_option(word: str) -> bool:
    """Whether a word looks like an option: ``--by``, but neither ``-`` nor ``-0.5``."""
    return len(word) > 1 and word[0] == "-" and not re.fullmatch(r"-\d*\.?\d+(e[-+]?\d+)?", word)


def _is_path(word: str) -> bool:
    """Whether a word is a path that exists, or such a path with ``:SYSTEM`` behind it."""
    return os.path.lexists(word) or os.path.lexists(word.rpartition(":")[0])
