"""The stage from audio to embeddings: ``spkver embed``.

What is made lies in parts beside the final folder until all of it is there; the same command after a stop, of
whatever kind, goes on with what is missing.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spkver.data.audio_check import Survey, read_survey, refuse_too_many, report_unusable, write_survey
from spkver.data.directory import DataDirectory, Utterance
from spkver.data.shards import Location
from spkver.embedding.extractor import Extractor
from spkver.embedding.folder import MADE_OF, embeddings_folder, refuse_other_data, write_embeddings
from spkver.embedding.parts import EmbeddingParts, Part
from spkver.embedding.workers import embed_parts
from spkver.experiment.model_fingerprint import embedding_fingerprint
from spkver.experiment.progress import Progress
from spkver.experiment.provenance import data_name, data_record, write_record
from spkver.files import locked


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
            Or another process embeds the directory by this system.
    """
    name = f"{data_name(directory.path)}-{base}"
    with locked(exp / f".embedding-{name}.lock", f"embedding {directory.path}"):
        record = {"data": data_record(directory.path), "model": embedding_fingerprint(model)}
        folder = embeddings_folder(exp, directory.path, base)
        refuse_other_data(folder, record)
        return _embed_directory(directory, folder, extractor, record, weights, workers or torch.get_num_threads())


def _embed_directory(
    directory: DataDirectory, folder: Path, extractor: Extractor, record: dict, weights: Path, workers: int
) -> str:
    reasons = {utt: reason for utt, _, reason in read_survey(directory.path).unusable}
    wanted = [utterance for utterance in directory.utterances if utterance.id not in reasons]
    parts = EmbeddingParts(folder.parent / f".{folder.name}.parts", wanted, _fingerprint(weights, record["model"]))

    made = _Made(directory, reasons, extractor.config.data.max_unusable_share)
    start, seconds, speed = time.monotonic(), 0.0, "0x real time"
    with Progress(f"embedding {data_name(directory.path)}", len(wanted), "utt") as progress:
        for number, part, is_new in embed_parts(extractor, parts, workers):
            made.add(number, parts.groups[number], part)
            seconds += float(part.durations.sum()) if is_new else 0.0
            speed = f"{seconds / max(time.monotonic() - start, 1e-9):.0f}x real time"
            progress.show(len(part.reasons), speed)
    survey = made.survey()
    report_unusable(Survey(unusable=[found for found in survey.unusable if found[0] not in reasons]))
    embeddings, utts, measures = made.whole()
    # Never the old record beside new embeddings: a stop in between leaves none.
    (folder / MADE_OF).unlink(missing_ok=True)
    write_embeddings(folder, embeddings, utts, measures)
    write_record(folder / MADE_OF, record)
    # A file that is only missing may be there the next time.
    bad = [found for found in survey.unusable if found[2] != "missing"]
    write_survey(directory.path, Survey(survey.durations, bad))
    parts.remove()
    return f"{len(utts)} embeddings ({speed}) -> {folder}"


class _Made:
    """What the parts come to, whatever their order."""

    def __init__(self, directory: DataDirectory, reasons: dict[str, str], max_unusable_share: float):
        self.directory = directory
        self.max_unusable_share = max_unusable_share
        self.durations: dict[str, float] = {}
        self.unusable: list[tuple[str, Location, str]] = []
        self._known = [(u.id, u.path, reasons[u.id]) for u in directory.utterances if u.id in reasons]
        self._parts: dict[int, tuple[list[str], Part]] = {}
        refuse_too_many(self.found(), directory, max_unusable_share)

    def found(self) -> Survey:
        """What the files turned out to be so far."""
        return Survey(self.durations, self._known + self.unusable)

    def survey(self) -> Survey:
        """The same in the order of the directory, whichever part was ready first."""
        found = self.found()
        reasons = {utt: reason for utt, _, reason in found.unusable}
        utterances = self.directory.utterances
        return Survey(
            {u.id: found.durations[u.id] for u in utterances if u.id in found.durations},
            [(u.id, u.path, reasons[u.id]) for u in utterances if u.id in reasons],
        )

    def add(self, number: int, utterances: Sequence[Utterance], part: Part) -> None:
        """Take a part; more unusable files than may be end the run here, not when all are read."""
        usable = part.reasons == ""
        for utterance, is_usable, reason, seconds in zip(utterances, usable, part.reasons, part.durations):
            if is_usable:
                self.durations[utterance.id] = float(seconds)
            else:
                self.unusable.append((utterance.id, utterance.path, str(reason)))
        utts = [utterance.id for utterance, is_usable in zip(utterances, usable) if is_usable]
        self._parts[number] = utts, Part(*(values[usable] for values in part))
        refuse_too_many(self.found(), self.directory, self.max_unusable_share)

    def whole(self) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
        """Embeddings ``(n, embed_dim)``, ids and measures in the order of the directory."""
        parts = [self._parts[number] for number in sorted(self._parts)]
        utts = [utt for ids, _ in parts for utt in ids]
        embeddings, magnitudes, seconds = (
            np.concatenate([getattr(part, name) for _, part in parts])
            for name in ("embeddings", "magnitudes", "seconds")
        )
        # What counts is what was embedded, not how long the file is.
        return embeddings, utts, {"duration": seconds, "magnitude": magnitudes}


def _fingerprint(weights: Path, model: str) -> str:
    """What embeddings depend on: the model, and the file that it is computed with, which may be an exported one."""
    return hashlib.sha256(weights.read_bytes() + model.encode()).hexdigest()
