"""The stage from audio to embeddings: ``spkver embed``.

What is made lies in parts beside the final folder until all of it is there; the same command after a stop, of
whatever kind, goes on with what is missing. The same command in several processes, on one machine or on several with a
common folder, shares the parts out, and the last one puts them together: the result has the bytes of a single process.
"""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from spkver.data.audio_check import (
    Survey,
    Unusable,
    read_survey,
    refuse_too_many,
    report_unusable,
    unusable_of,
    write_survey,
)
from spkver.data.directory import DataDirectory
from spkver.data.utterance_table import UtteranceTable
from spkver.embedding.extractor import Extractor
from spkver.embedding.folder import MADE_OF, embeddings_folder, refuse_other_data, write_embeddings
from spkver.embedding.parts import UTTERANCES_A_PART, EmbeddingParts, Part
from spkver.embedding.workers import embed_parts
from spkver.experiment.model_fingerprint import embedding_fingerprint
from spkver.experiment.progress import Progress
from spkver.experiment.provenance import data_name, data_record, write_record
from spkver.files import locked

# For another process to put the parts of millions of utterances together.
_WAIT_SECONDS = 3600


def embed_directory(
    directory: DataDirectory,
    exp: Path,
    extractor: Extractor,
    model: Path,
    weights: Path,
    base: str = "cosine",
    workers: int | None = None,
) -> str:
    """Embed the usable utterances of a data directory; returns a line that says so.

    Args:
        directory: need not have been looked at: a file that is missing or unusable is found on the way.
        exp: the experiment that the embeddings go to.
        extractor: what embeds.
        model: the folder of its model.
        weights: the file with its weights: of the model, or one that ``spkver export`` made of it.
        base: the name that tables give to a system of these embeddings, see `embeddings_folder`.
        workers: threads; None: as many as torch would compute with.

    Raises:
        SpkverError: more files are unusable than ``data.max_unusable_share`` allows; said as soon as it is known.
    """
    record: dict = {"data": data_record(directory.path), "model": embedding_fingerprint(model)}
    folder = embeddings_folder(exp, directory.path, base)
    refuse_other_data(folder, record)
    known = read_survey(directory.path)
    unusable = unusable_of(directory, known)
    is_wanted = np.ones(len(directory.utterances), bool)
    is_wanted[directory.utterances.find(utt for utt, _, _ in unusable)] = False
    wanted = directory.utterances.take(is_wanted)
    parts = EmbeddingParts(folder, wanted, _fingerprint(weights, record["model"]))

    made = _Made(directory, wanted, unusable, extractor.config.data.max_unusable_share)
    start, seconds, speed = time.monotonic(), 0.0, "0x real time"
    with Progress(f"embedding {data_name(directory.path)}", len(wanted), "utt") as progress:
        for number, part, is_new in embed_parts(extractor, parts, workers or torch.get_num_threads()):
            made.add(number, part)
            seconds += float(part.durations.sum()) if is_new else 0.0
            speed = f"{seconds / max(time.monotonic() - start, 1e-9):.0f}x real time"
            progress.show(len(part.reasons), speed)
    with locked(exp / f".embedding-{folder.name}.lock", f"embedding {directory.path}", wait_seconds=_WAIT_SECONDS):
        if parts.are_over():
            return f"another process has put the embeddings together -> {folder}"
        n = _write(directory, folder, record, made)
        parts.remove()
    return f"{n} embeddings ({speed}) -> {folder}"


def _write(directory: DataDirectory, folder: Path, record: dict, made: "_Made") -> int:
    """Put the parts together; how many embeddings there are."""
    report_unusable(made.new_unusable())
    embeddings, utts, measures = made.whole()
    # Never the old record beside new embeddings: a stop in between leaves none.
    (folder / MADE_OF).unlink(missing_ok=True)
    write_embeddings(folder, embeddings, utts, measures)
    write_record(folder / MADE_OF, record)
    write_survey(directory.path, made.survey())
    return len(utts)


class _Made:
    """What the parts come to, whatever their order.

    Args:
        directory: what is embedded.
        wanted: those of its utterances that the parts are about.
        unusable: the others.
        max_unusable_share: of the directory.
    """

    def __init__(
        self, directory: DataDirectory, wanted: UtteranceTable, unusable: list[Unusable], max_unusable_share: float
    ):
        self._directory, self._wanted, self._known = directory, wanted, unusable
        self._max_unusable_share = max_unusable_share
        self._found: dict[int, list[Unusable]] = {}  # by the number of their part
        self._parts: dict[int, Part] = {}
        self._refuse_too_many()

    def add(self, number: int, part: Part) -> None:
        """Take a part; more unusable files than may be end the run here, not when all are read."""
        self._parts[number] = part
        places = np.flatnonzero(part.reasons != "")
        if not len(places):
            return
        unusable = zip(self._wanted.take(number * UTTERANCES_A_PART + places), part.reasons[places])
        self._found[number] = [(one.id, one.path, str(reason)) for one, reason in unusable]
        self._refuse_too_many()

    def new_unusable(self) -> list[Unusable]:
        """What turned out to be unusable, in the order of the directory."""
        return [one for number in sorted(self._found) for one in self._found[number]]

    def survey(self) -> Survey:
        """What is to be kept of the files; one that is only missing may be there the next time."""
        durations, reasons = (self._joined(name) for name in ("durations", "reasons"))
        is_usable = reasons == ""
        found = Survey(self._wanted.take(is_usable).ids, durations[is_usable], self._known + self.new_unusable())
        lasting = [one for one in unusable_of(self._directory, found) if one[2] != "missing"]
        return replace(found, unusable=lasting)

    def whole(self) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
        """Embeddings ``(n, embed_dim)``, ids and measures of the usable, in the order of the directory."""
        is_usable = self._joined("reasons") == ""
        # What counts is what was embedded, not how long the file is.
        measures = {"duration": self._joined("seconds")[is_usable], "magnitude": self._joined("magnitudes")[is_usable]}
        return self._joined("embeddings")[is_usable], self._wanted.take(is_usable).ids.to_pylist(), measures

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(self._parts[number], name) for number in sorted(self._parts)])

    def _refuse_too_many(self) -> None:
        refuse_too_many(self._directory, self._known + self.new_unusable(), self._max_unusable_share)


def _fingerprint(weights: Path, model: str) -> str:
    """What embeddings depend on: the model, and the file that it is computed with, which may be an exported one."""
    return hashlib.sha256(weights.read_bytes() + model.encode()).hexdigest()
