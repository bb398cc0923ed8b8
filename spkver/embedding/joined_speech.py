"""Recordings of many lengths, joined of held-out speakers' utterances, and trials among them to calibrate on.

A corpus mostly has utterances of about one length. A calibration by them alone knows nothing of the minute that a user
brings: what it says there is extrapolated. So utterances of a speaker are joined as waveforms and embedded anew.

For each pair of recordings the speaker's utterances are shuffled and parted in two, so that a target trial never has
the same audio on both sides; each part is joined, and cut to 2, 4, 8, ... seconds and to all that there is, a minute at
most. Trials are made between the first and the second parts.

- The lengths of target and of nontarget trials must be alike, or the fit takes length itself for evidence: all
  speakers of a round are parted at the same share of their utterances, and cut to the same lengths.
- Everything is drawn by the seed, so systems that are fused have the same trials.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spkver.config.schema import Calibration
from spkver.data.audio import check_samples
from spkver.data.directory import Utterance
from spkver.embedding.extractor import Extracted, Extractor
from spkver.errors import SpkverError

# A cut that leaves out less than this share of the recording is not worth an embedding of its own.
_LEAST_GROWTH = 1.25
# Joined before they are embedded, in batches of one length.
_SECONDS_AT_ONCE = 600.0


@dataclass(frozen=True, eq=False)
class JoinedSpeech:
    """Embedded recordings.

    Attributes:
        extracted: embeddings, magnitudes and seconds of the n recordings.
        speakers: (n,) names.
        rounds: (n,) integers; recordings of one round may be compared.
        parts: (n,) 0 or 1, of the speaker's utterances in that round.
    """

    extracted: Extracted
    speakers: np.ndarray
    rounds: np.ndarray
    parts: np.ndarray


def embed_joined(
    extractor: Extractor, utterances: Sequence[Utterance], settings: Calibration, seed: int
) -> JoinedSpeech | None:
    """Join utterances of each speaker, cut them to lengths, and embed them.

    One speaker's utterances, and some minutes of recordings, are in memory at a time.

    Args:
        extractor: of the model that is calibrated.
        utterances: of speakers that it was not trained on.
        settings: how many pairs of recordings, and their lengths.
        seed: of the draw.

    Returns:
        None where it makes no trials: ``joined_pairs`` is 0, or fewer than two speakers have two utterances.

    Raises:
        SpkverError: a file cannot be read any more, or holds nothing.
    """
    of_speaker: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        of_speaker.setdefault(utterance.speaker, []).append(utterance)
    speakers = sorted(name for name, own in of_speaker.items() if len(own) > 1)
    if len(speakers) < 2 or not settings.joined_pairs:
        return None
    keys, waiting, made = [], [], []
    for key, recording in _recordings(extractor, {name: of_speaker[name] for name in speakers}, settings, seed):
        keys.append(key)
        waiting.append(recording)
        if sum(map(len, waiting)) > _SECONDS_AT_ONCE * extractor.sample_rate:
            made.append(_embed(extractor, waiting))
            waiting = []
    if waiting:
        made.append(_embed(extractor, waiting))
    extracted = Extracted(*map(np.concatenate, zip(*made)))
    return JoinedSpeech(extracted, *(np.array(column) for column in zip(*keys)))


def joined_trials(
    joined: JoinedSpeech, genders: dict[str, str], max_nontargets: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trials between first and second parts of one round; nontargets of known other genders are left out.

    Args:
        joined: n recordings.
        genders: speaker -> gender, where known.
        max_nontargets: draw at most so many of them.
        seed: of the draw.

    Returns:
        ``(first, second, labels)``: each (n_trials,), recordings by position and 1 = target; empty where no two
        speakers may be compared.
    """
    gender = np.array([genders.get(speaker, "") for speaker in joined.speakers])
    pairs = []
    for number in np.unique(joined.rounds):
        here = joined.rounds == number
        first, second = (np.flatnonzero(here & (joined.parts == part)) for part in (0, 1))
        pairs.append(np.stack(np.meshgrid(first, second, indexing="ij")).reshape(2, -1))
    first, second = np.concatenate(pairs, axis=1)
    is_target = joined.speakers[first] == joined.speakers[second]
    comparable = (gender[first] == gender[second]) | (gender[first] == "") | (gender[second] == "")
    nontargets = np.flatnonzero(~is_target & comparable)
    if not len(nontargets):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    if len(nontargets) > max_nontargets:
        nontargets = np.sort(np.random.default_rng(seed).choice(nontargets, max_nontargets, replace=False))
    chosen = np.concatenate([np.flatnonzero(is_target), nontargets])
    return first[chosen], second[chosen], is_target[chosen].astype(np.int64)


def _recordings(
    extractor: Extractor, of_speaker: dict[str, list[Utterance]], settings: Calibration, seed: int
) -> Iterator[tuple[tuple[str, int, int], np.ndarray]]:
    """Recordings with their speaker, round and part, speaker by speaker."""
    shortest, longest = settings.joined_seconds
    rounds = _rounds(list(of_speaker), settings.joined_pairs, seed)
    for place, (speaker, utterances) in enumerate(of_speaker.items()):
        samples: dict[str, np.ndarray] = {}
        for number, (chosen, share) in enumerate(rounds):
            if speaker not in chosen:
                continue
            order = np.random.default_rng([seed, number, place]).permutation(len(utterances))
            border = min(max(round(share * len(order)), 1), len(order) - 1)
            for part, indices in enumerate((order[:border], order[border:])):
                recording = _joined(extractor, [utterances[index] for index in indices], longest, samples)
                for cut in _cuts(recording, shortest, extractor.sample_rate):
                    yield (speaker, number, part), cut


def _rounds(speakers: list[str], pairs: int, seed: int) -> list[tuple[set[str], float]]:
    """For each round its speakers, and the share of their utterances in the first part."""
    rng = np.random.default_rng(seed)
    if pairs < len(speakers):
        speakers = rng.choice(speakers, max(pairs, 2), replace=False).tolist()
    return [(set(speakers), share) for share in rng.uniform(size=max(pairs // len(speakers), 1))]


def _joined(
    extractor: Extractor, utterances: list[Utterance], longest_seconds: float, samples: dict[str, np.ndarray]
) -> np.ndarray:
    """Utterances one after another, as many as make the longest length; ``samples`` keeps what is read."""
    found, n, most = [], 0, round(longest_seconds * extractor.sample_rate)
    for utterance in utterances:
        if n >= most:
            break
        if utterance.id not in samples:
            samples[utterance.id] = _read(extractor, utterance)
        found.append(samples[utterance.id])
        n += len(found[-1])
    return np.concatenate(found)[:most]


def _cuts(recording: np.ndarray, shortest_seconds: float, rate: int) -> list[np.ndarray]:
    """The beginning of a recording, from the shortest length on twice as long each time, and all of it."""
    n, cuts = max(round(shortest_seconds * rate), 1), []
    while n * _LEAST_GROWTH < len(recording):
        cuts.append(recording[:n])
        n *= 2
    # A beginning may be a pause.
    return [cut for cut in cuts if check_samples(cut) is None] + [recording]


def _read(extractor: Extractor, utterance: Utterance) -> np.ndarray:
    try:
        return extractor.read(utterance.path).samples
    except SpkverError as error:
        raise SpkverError(
            f"{error} (utterance '{utterance.id}'); calibration joins utterances of held-out speakers, "
            "scoring.calibration.joined_pairs=0 does without"
        ) from None


def _embed(extractor: Extractor, recordings: list[np.ndarray]) -> Extracted:
    """Embeddings of recordings in their order; those of similar length are embedded together."""
    order = sorted(range(len(recordings)), key=lambda index: len(recordings[index]))
    batches = extractor.batches((index, recordings[index]) for index in order)
    made = [extractor.extract(waveforms) for _, waveforms in batches]
    back = np.argsort(order)
    return Extracted(*(np.concatenate(column)[back] for column in zip(*made)))
