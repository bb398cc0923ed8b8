"""A small store of speakers: enrol them by a few recordings each, then ask who is speaking.

A score is that of `Verifier.verify`, of the mean embedding of a speaker's recordings. Whoever scores below
the threshold against everybody is unknown. Each enrolled speaker is one more chance of a false alarm: with many of
them raise the threshold, or lower the prior.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from spkver.data.array_audio import is_path, shown
from spkver.data.names import composed
from spkver.errors import SpkverError
from spkver.scoring.backends.enrolment import Models
from spkver.verification.store_files import Enrolled, Recording, changing, is_name, read_enrolled, write_enrolled
from spkver.verification.verifier import Audio, EmbeddedAudio, Verifier, load


class Enrolment(NamedTuple):
    """A speaker who was enrolled."""

    name: str
    recordings: int  # that the speaker has now
    doubtful: list[tuple[str, float]]  # new ones that sound unlike the speaker's others, and their scores
    threshold: float | None  # below it a recording is doubtful; None where nothing says which
    threshold_source: str | None  # where it comes from, in words


class Identification(NamedTuple):
    """Who is speaking."""

    speaker: str | None  # None: nobody who is enrolled
    score: float  # of the best speaker; a natural log-likelihood ratio where ``calibrated``, a cosine otherwise
    threshold: float
    calibrated: bool
    scores: dict[str, float]  # of all speakers, the best first
    system: str  # that made the scores
    threshold_source: str  # where the threshold comes from, in words


class Stretch(NamedTuple):
    """Part of a recording in which one speaker speaks."""

    start_seconds: float
    end_seconds: float
    speaker: str | None
    score: float  # mean over its windows, of the speaker or, where nobody is known, of whoever is nearest


@dataclass
class _OpenStretch:
    """A stretch that the next window may go on with."""

    start_seconds: float
    end_seconds: float
    speaker: str | None
    scores: list[float]  # of its windows


# What a folder holds before the first enrolment.
_NOBODY = Enrolled(fingerprint="", model="")


class SpeakerStore:
    """Speakers in a folder.

    Args:
        folder: of the store; made by the first enrolment.
        voice: what `spkver.load` gave, or a model folder; None: the model that the store was made with.
        system, device: of a model that is loaded here, as in `spkver.load`.

    Raises:
        SpkverError: the store is damaged, or its embeddings are of another model.

    >>> store = spkver.SpeakerStore("people", "exp/mini/model")    # doctest: +SKIP
    >>> store.enroll("anna", ["anna1.wav", "anna2.wav"])           # doctest: +SKIP
    >>> store.identify("who.wav").speaker                          # doctest: +SKIP
    'anna'
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        voice: Verifier | str | os.PathLike[str] | None = None,
        system: str | None = None,
        device: str = "cpu",
    ):
        if not is_path(folder):
            raise SpkverError(f"expected the path of a speaker store, got {shown(folder)}")
        if voice is not None and not is_path(voice) and not isinstance(voice, Verifier):
            raise SpkverError(f"expected what spkver.load gives, or the path of a model folder, got {shown(voice)}")
        self.folder = Path(folder)
        self._enrolled = self._read()
        self._system, self._device = system, device
        self._voice = load(voice, system, device) if is_path(voice) else voice
        if self._voice is not None:
            self._refuse_other_model(self._voice)

    @property
    def speakers(self) -> dict[str, list[Recording]]:
        """The recordings of each enrolled speaker."""
        return dict(self._enrolled.speakers)

    @property
    def voice(self) -> Verifier:
        """The model, loaded when it is first needed.

        Raises:
            SpkverError: nobody has said which, or it is not where it was.
        """
        if self._voice is None:
            if self._enrolled is _NOBODY:
                raise SpkverError(f"{self.folder}: is no speaker store yet; name the model of a new one (--model)")
            if not Path(self._enrolled.model).is_dir():
                raise SpkverError(f"{self.folder}: its model is no longer at {self._enrolled.model}; name it (--model)")
            voice = load(self._enrolled.model, self._system, self._device)
            self._refuse_other_model(voice)
            self._voice = voice
        return self._voice

    def enroll(
        self,
        name: str,
        recordings: Sequence[Audio],
        sample_rate: int | None = None,
        known: Literal["refuse", "add", "replace"] = "refuse",
    ) -> Enrolment:
        """Enrol a speaker by one recording or several.

        Args:
            name: of the speaker.
            recordings: paths, or samples as `Verifier.embed` takes them.
            sample_rate: of samples, in Hz.
            known: what to do when the speaker is enrolled already: add to the recordings, or replace them.

        Raises:
            SpkverError: a recording cannot be used, the name cannot be one, or is there already. The store is then
                as it was.
        """
        _check_name(name)
        name = composed(name)
        if not isinstance(recordings, list | tuple) or not recordings:
            found = "none" if isinstance(recordings, list | tuple) else shown(recordings)
            raise SpkverError(f"{name}: expected a list of one recording or more to enrol by, got {found}")
        self._refuse_known(name, known)
        embedded = EmbeddedAudio.together(*(self.voice.embed_audio(audio, sample_rate) for audio in recordings))
        files = [str(Path(audio).absolute()) if isinstance(audio, str | os.PathLike) else "" for audio in recordings]
        new = [Recording(*row) for row in zip(files, embedded.durations.tolist(), embedded.magnitudes.tolist())]
        with changing(self.folder):
            # As it is now: another process may have enrolled somebody in the meantime.
            self._enrolled = self._read()
            self._refuse_other_model(self.voice)
            self._refuse_known(name, known)
            self._refuse_damaged(except_for=name if known == "replace" else None)
            speakers = self.speakers
            rows = {other: self._enrolled.rows(other) for other in speakers}
            if known == "replace" or name not in speakers:
                speakers[name], rows[name] = new, embedded.embeddings
            else:
                speakers[name] = speakers[name] + new
                rows[name] = np.concatenate([rows[name], embedded.embeddings])
            self._write(speakers, rows)
        likeness = self.voice.likeness_threshold or (None, None)
        return Enrolment(name, len(speakers[name]), self._doubtful(name, len(new), likeness[0]), *likeness)

    def remove(self, name: str) -> None:
        """Forget a speaker.

        Raises:
            SpkverError: nobody of that name is enrolled.
        """
        # A store of an earlier version may have the name as it was typed.
        if isinstance(name, str) and name not in self.speakers:
            name = composed(name)
        self._refuse_unknown(name)
        with changing(self.folder):
            self._enrolled = self._read()
            self._refuse_unknown(name)
            speakers = self.speakers
            rows = {other: self._enrolled.rows(other) for other in speakers if other != name}
            del speakers[name]
            self._write(speakers, rows)

    def identify(self, audio: Audio, sample_rate: int | None = None) -> Identification:
        """Who of the enrolled speakers is speaking, if any.

        Raises:
            SpkverError: nobody is enrolled, the model has no threshold, or as `Verifier.embed`.
        """
        (threshold, source), models, embedded = self.voice.known_threshold(), self._models(), self._embedded()
        scores = self.voice.scores(embedded, models, self.voice.embed_audio(audio, sample_rate))[:, 0]
        ranked = {models.names[place]: float(scores[place]) for place in np.argsort(-scores, kind="stable")}
        best, score = next(iter(ranked.items()))
        known = best if score >= threshold else None
        voice = self.voice
        return Identification(known, score, threshold, voice.calibrated, ranked, voice.system, source)

    def who_speaks_when(
        self, audio: Audio, window_seconds: float = 3.0, hop_seconds: float = 1.5, sample_rate: int | None = None
    ) -> list[Stretch]:
        """Who speaks in which part of a recording, which may be of any length.

        Each window (`Verifier.embed_windows`) is identified by itself, and its answer stands for the time from its
        first speech to its last. Neighbours with the same answer are one stretch, with pauses of up to a hop in
        between; of what two with different answers share each has half.

        Raises:
            SpkverError: as `identify` and `Verifier.embed_windows`.
        """
        (threshold, _), models, enrolled = self.voice.known_threshold(), self._models(), self._embedded()
        times, embedded = self.voice.embed_audio_windows(audio, window_seconds, hop_seconds, sample_rate)
        if not len(times):
            return []
        scores = self.voice.scores(enrolled, models, embedded)
        best = scores.argmax(0)
        found: list[_OpenStretch] = []
        for (start, end), place, score in zip(times[:, 2:].tolist(), best.tolist(), scores.max(0).tolist()):
            speaker = models.names[place] if score >= threshold else None
            last = found[-1] if found else None
            if last is not None and last.speaker == speaker and start - last.end_seconds <= hop_seconds:
                last.end_seconds = end
                last.scores.append(score)
                continue
            if last is not None and start < last.end_seconds:  # windows overlap: each has half of what both cover
                start = last.end_seconds = (start + last.end_seconds) / 2
            found.append(_OpenStretch(start, end, speaker, [score]))
        return [Stretch(s.start_seconds, s.end_seconds, s.speaker, float(np.mean(s.scores))) for s in found]

    def _read(self) -> Enrolled:
        return read_enrolled(self.folder) or _NOBODY

    def _doubtful(self, name: str, n_new: int, threshold: float | None) -> list[tuple[str, float]]:
        """The last recordings of a speaker that score below a threshold against all the others together."""
        embedded, listed = self._embedded(name), self._enrolled.speakers[name]
        if len(listed) < 2 or threshold is None:
            return []
        doubtful = []
        for place in range(len(listed) - n_new, len(listed)):
            others = np.delete(np.arange(len(listed)), place)
            one = EmbeddedAudio(*(values[[place]] for values in embedded))
            score = float(self.voice.scores(embedded, Models([name], others, np.array([0, len(others)])), one)[0, 0])
            if score < threshold:
                doubtful.append((listed[place].file, score))
        return doubtful

    def _models(self) -> Models:
        if not self.speakers:
            raise SpkverError(f"{self.folder}: nobody is enrolled; `spkver enroll NAME FILE ... --store DIR` does it")
        self._refuse_damaged()
        counts = [len(listed) for listed in self.speakers.values()]
        return Models(list(self.speakers), np.arange(sum(counts)), np.cumsum([0, *counts]))

    def _embedded(self, name: str | None = None) -> EmbeddedAudio:
        """The recordings of all speakers, or of one."""
        names = self.speakers if name is None else [name]
        listed = [one for speaker in names for one in self.speakers[speaker]]
        embeddings = self._enrolled.embeddings if name is None else self._enrolled.rows(name)
        return EmbeddedAudio(
            embeddings, np.array([one.seconds for one in listed]), np.array([one.magnitude for one in listed])
        )

    def _write(self, speakers: dict[str, list[Recording]], rows: dict[str, np.ndarray]) -> None:
        if self._voice is not None:
            fingerprint, model = self._voice.fingerprint, str(self._voice.folder.absolute())
        else:  # removing needs no model
            fingerprint, model = self._enrolled.fingerprint, self._enrolled.model
        embeddings = np.concatenate([rows[name] for name in speakers]) if rows else np.zeros((0, 0), np.float32)
        self._enrolled = Enrolled(fingerprint, model, speakers, embeddings)
        write_enrolled(self.folder, self._enrolled)

    def _refuse_damaged(self, except_for: str | None = None) -> None:
        """Refuse embeddings that are not finite, as earlier versions let in, while they can be removed or replaced."""
        for name in self.speakers:
            if name != except_for and not self._enrolled.is_finite(name):
                raise SpkverError(
                    f"{self.folder}: what was enrolled of '{name}' is not finite and cannot be compared; "
                    f"`spkver speakers --store {self.folder} --remove '{name}'` and enrol from other recordings"
                )

    def _refuse_other_model(self, voice: Verifier) -> None:
        # An empty store holds nothing that could be compared with another model's.
        if self.speakers and voice.fingerprint != self._enrolled.fingerprint:
            raise SpkverError(
                f"{self.folder}: its embeddings were made by other weights or settings than those of {voice.folder}, "
                f"from {self._enrolled.model}; use those, or enrol everybody again into another folder"
            )

    def _refuse_known(self, name: str, known: str) -> None:
        if known not in ("refuse", "add", "replace"):
            raise SpkverError(f"known must be refuse, add or replace, got {shown(known)}")
        if known == "refuse" and name in self.speakers:
            n = len(self.speakers[name])
            raise SpkverError(
                f"{self.folder}: '{name}' is enrolled already, by {n} recording{'s' * (n > 1)}; "
                "add to them (--add) or replace them (--replace)"
            )

    def _refuse_unknown(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.speakers:
            names = ", ".join(self.speakers) or "nobody"
            found = f"'{name}'" if isinstance(name, str) else shown(name)
            raise SpkverError(f"{self.folder}: {found} is not enrolled; there is {names}")


def _check_name(name: str) -> None:
    if not is_name(name):
        found = repr(name) if isinstance(name, str) else shown(name)
        raise SpkverError(f"{found} cannot be a speaker's name: take printable text without spaces at its ends")
