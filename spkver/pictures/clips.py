"""The beginnings of recordings inside a page, as Ogg Opus."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import soundfile

from spkver.data.audio import read_audio
from spkver.data.directory import read_data_directory
from spkver.data.shards import Location
from spkver.errors import SpkverError

# Of an utterance, in seconds; base64 makes 4 characters of 3 bytes.
_HEARD_SECONDS = 3.0
_BASE64_GROWTH = 4 / 3
_RATE = 16000


class Clips:
    """Clips of the utterances of some data directories, as many as fit.

    A page names a clip ``"NUMBER:utterance"``, as two directories may have utterances of one name; ``number``
    gives a directory its own.

    Args:
        megabytes: that all clips may take in the page.
    """

    def __init__(self, megabytes: float):
        self.encoded: dict[str, str] = {}
        self._left = megabytes * 1e6
        self._folders: list[Path] = []

    def number(self, folder: Path | None) -> int | None:
        """The number of a data directory; None where it is not known."""
        if folder is None:
            return None
        if folder not in self._folders:
            self._folders.append(folder)
        return self._folders.index(folder)

    def add(self, folder: Path, utts: Iterable[str], known_only: bool = False) -> None:
        """Encode utterances in the order given, until the megabytes are spent.

        Args:
            folder: the data directory.
            utts: of it.
            known_only: leave out what is no utterance of it, such as an enrolled model.

        Raises:
            SpkverError: the directory or a recording cannot be read, or lacks an utterance.
        """
        directory = read_data_directory(folder, check_files=False)
        paths = {utterance.id: utterance.path for utterance in directory.utterances}
        for utt in utts:
            key = f"{self.number(folder)}:{utt}"
            if key in self.encoded or (known_only and utt not in paths):
                continue
            if utt not in paths:
                raise SpkverError(f"{directory.path}: utterance '{utt}' of the snapshots is not in it any more")
            clip = _opus(paths[utt])
            self._left -= len(clip) * _BASE64_GROWTH
            if self._left < 0:
                return
            self.encoded[key] = base64.b64encode(clip).decode()


def _opus(path: Location) -> bytes:
    samples = read_audio(path, _RATE, 0.0, _HEARD_SECONDS)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, _RATE, format="OGG", subtype="OPUS")
    return buffer.getvalue()
