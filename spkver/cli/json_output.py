"""``--json``: what a verb found out as one JSON object a line."""

import argparse
import json


def add_json(parser: argparse.ArgumentParser) -> None:
    """Let a verb take ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of text")


def show(options, outcome) -> None:
    """Print an outcome that has a text and a ``record``, in the form that was asked for."""
    show_both(options, str(outcome), outcome.record)


def show_both(options, text: str, record: dict) -> None:
    """Print the text, or the record where JSON was asked for."""
    print(json.dumps(record, ensure_ascii=False) if options.json else text, flush=True)
