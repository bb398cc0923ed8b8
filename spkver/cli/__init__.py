"""The ``spkver`` command. Heavy imports stand inside the verbs, so that ``--help`` is instant."""

from spkver.cli.main import main

__all__ = ["main"]
