"""The verb ``completion``: what a shell needs to complete verbs, options and file names."""

import argparse
from collections.abc import Callable

from spkver.errors import SpkverError

_SHELLS = ("bash", "zsh", "tcsh")


def add_completion_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Give the parser the verb ``completion``."""
    verb("completion", completion).add_argument("shell", choices=_SHELLS, help="the shell to print a script for")


def completion(options) -> None:
    """Print a script by which a shell completes verbs, options and file names at the tab key."""
    from spkver.cli.main import command_parser

    try:
        import shtab
    except ImportError:
        raise SpkverError("completion: shtab is not installed, which writes the script; pip install shtab") from None
    parser = command_parser()
    for each in _with_those_below(parser):
        for action in each._actions:
            if action.choices is None:
                action.complete = shtab.FILE
    print(shtab.complete(parser, options.shell))


def _with_those_below(parser: argparse.ArgumentParser):
    """A parser and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _with_those_below(below)
