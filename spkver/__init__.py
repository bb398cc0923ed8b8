"""spkver: speaker verification that you can run, read and look at."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["SpeakerStore", "load"]

if TYPE_CHECKING:
    from spkver.verification.speaker_store import SpeakerStore
    from spkver.verification.verifier import load


def __getattr__(name: str) -> object:
    # torch takes seconds to import; `spkver --help` must not wait for it.
    if name == "load":
        from spkver.verification.verifier import load

        return load
    if name == "SpeakerStore":
        from spkver.verification.speaker_store import SpeakerStore

        return SpeakerStore
    raise AttributeError(f"module 'spkver' has no attribute '{name}'")
