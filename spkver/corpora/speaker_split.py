"""Which speakers train and which ones test, and the trials among the latter."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from spkver.data.directory import Utterance, dealt_by_gender
from spkver.data.trial_making import make_trials
from spkver.data.trials import Trials
from spkver.errors import SpkverError

MIN_SPEAKERS = 10
"""With two recordings or more: three to test with, three held out, four to train on."""
MIN_UTTERANCES = 50
MIN_TEST_SPEAKERS = 3
"""So many that two of them share a gender; as many are held out."""
MIN_TRAINING_SPEAKERS = 7
MOST_TEST_SPEAKERS = 200


def require_enough(utterances: Sequence[Utterance], source: str, advice: str = "") -> None:
    """Refuse what no experiment can be made of.

    Raises:
        SpkverError: one line: what is missing, and why it is needed.
    """
    counts = Counter(utterance.speaker for utterance in utterances)
    several = sum(n > 1 for n in counts.values())
    if several < MIN_SPEAKERS:
        raise SpkverError(
            f"{source}: {several} speakers with two usable recordings or more ({len(counts)} in all), at least "
            f"{MIN_SPEAKERS} are needed, as those to train on, to hold out and to test with must be different people; "
            f"add speakers{advice}"
        )
    if len(utterances) < MIN_UTTERANCES:
        raise SpkverError(
            f"{source}: {len(utterances)} usable recordings of {len(counts)} speakers, at least {MIN_UTTERANCES} are "
            "needed, as fewer make too few pairs of one speaker to train on and to count errors with; "
            f"add recordings{advice}"
        )


def draw_test_speakers(
    utterances: Sequence[Utterance], genders: Mapping[str, str], seed: int, n: int | None = None
) -> list[str]:
    """Draw the speakers to test with, of each gender its share, among those with two utterances or more.

    Args:
        utterances: of all speakers; ``require_enough`` has passed them.
        genders: speaker -> gender, of those that are known.
        seed: of the draw.
        n: how many; None: a fifth, at least 3 and at most 200.

    Raises:
        SpkverError: so many leave fewer than 7 speakers to train on and to hold out.
    """
    counts = Counter(utterance.speaker for utterance in utterances)
    candidates = sorted(speaker for speaker, count in counts.items() if count > 1)
    if n is None:
        n = min(MOST_TEST_SPEAKERS, max(MIN_TEST_SPEAKERS, round(len(candidates) / 5)))
    most = len(candidates) - MIN_TRAINING_SPEAKERS
    if not MIN_TEST_SPEAKERS <= n <= most:
        raise SpkverError(
            f"--test-speakers {n}: choose {MIN_TEST_SPEAKERS} to {most} of the {len(candidates)} speakers with two "
            f"recordings or more; {MIN_TRAINING_SPEAKERS} must be left to train on and to hold out"
        )
    drawn = np.random.default_rng([seed, 0x7E57]).permutation(candidates).tolist()
    return sorted(dealt_by_gender(drawn, genders)[:n])


def draw_trials(
    utterances: Sequence[Utterance],
    recordings: Sequence[str],
    genders: Mapping[str, str],
    seed: int,
    max_targets: int,
    max_nontargets: int,
) -> Trials:
    """Trials among test speakers: nontargets of one gender where it is known, targets across recordings.

    Two segments of one recording share its microphone, room and day, and are told together by these. A speaker with
    several recordings has no such target pair; of one with a single recording there is nothing else.

    Args:
        utterances: of the test speakers.
        recordings: the recording that each was cut from.
        genders: speaker -> gender.
        seed: of the draw.
        max_targets: at most so many, before those within a recording are left out.
        max_nontargets: at most so many.

    Raises:
        SpkverError: as `spkver.data.trial_making.make_trials`.
    """
    utts = [utterance.id for utterance in utterances]
    speakers = [utterance.speaker for utterance in utterances]
    trials = make_trials(utts, speakers, seed, max_targets, max_nontargets, dict(genders))
    _, recording = np.unique(recordings, return_inverse=True)
    several = speakers_with_several(speakers, recordings)
    one_of_several = np.array([speaker in several for speaker in speakers])
    enroll, test, labels = trials.enroll_index, trials.test_index, trials.known_labels
    within = (labels == 1) & (recording[enroll] == recording[test]) & one_of_several[enroll]
    kept = ~within
    if not labels[kept].any():
        return trials
    return Trials(utts, enroll[kept], test[kept], labels[kept])


def speakers_with_several(speakers: Sequence[str], recordings: Sequence[str]) -> set[str]:
    """The speakers of more than one recording."""
    counts = Counter(speaker for speaker, _ in set(zip(speakers, recordings)))
    return {speaker for speaker, n in counts.items() if n > 1}
