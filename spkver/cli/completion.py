"""The verb ``completion``: what a shell needs to complete verbs, options and file names."""

import argparse
from collections.abc import Callable

from spkver.errors import SpkverError

_SHELLS = ("bash", "zsh", "tcsh")


def add_completion_verb(verb: Callable[..., argparse.ArgumentParser], command: argparse.ArgumentParser) -> None:
    """Give the parser of the whole command the verb ``completion``."""
    added = verb("completion", completion)
    added.add_argument("shell", choices=_SHELLS, help="the shell to print a script for")
    added.set_defaults(command=command)


def completion(options) -> None:
    """Print a script by which a shell completes verbs, options and file names at the tab key."""
    try:
        import shtab
    except ImportError:
        raise SpkverError("completion: shtab is not installed, which writes the script; pip install shtab") from None
    for each in _with_those_below(options.command):
        for action in each._actions:
            if action.choices is None:
                action.complete = shtab.FILE
    print(shtab.complete(options.command, options.shell))


def _with_those_below(parser: argparse.ArgumentParser):
    """A parser and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _with_those_below(below)
