"""What the general model is trained on: speechocean762's sentences and Speech Commands' words, as one data directory.

Two corpora of few recordings a speaker, which are public, free and quickly fetched: 125 people who read sentences, and
more than a thousand who said some words each. People to test with are those that speechocean762 sets aside, and some of
Speech Commands, by their clips as recorded.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from spkver.corpora.published import described
from spkver.corpora.speech_commands import join_clips, read_clips
from spkver.corpora.speechocean762 import NAME, prepare_speechocean762
from spkver.data.directory import DataDirectory, Utterance, read_data_directory, write_data_directory
from spkver.data.trial_making import make_trials
from spkver.data.trials import read_trials, write_trials
from spkver.errors import SpkverError

TEST_SPEAKERS = 100
"""Of Speech Commands; with speechocean762's 125 they are whom no training sees."""
SECONDS = 4.0
"""Of the recordings that clips are joined to, as long as a sentence of speechocean762."""
NONTARGETS = 50_000


def prepare_general(
    speechocean762: str | Path,
    speech_commands: str | Path,
    folder: str | Path,
    seed: int = 1,
) -> str:
    """Write the data directories ``folder/train`` and ``folder/test``, with the lists test/speechocean762 and
    test/speech_commands.

    Args:
        speechocean762: folder of the unpacked corpus; so is ``speech_commands``.
        seed: of the test speakers, the trials, and the order in which clips are joined.

    Returns:
        What was written, in a few words.

    Raises:
        SpkverError: a corpus is not there or incomplete, or a file cannot be read or written.
    """
    folder = Path(folder)
    prepare_speechocean762(speechocean762, folder / NAME)
    sentences = {split: read_data_directory(folder / NAME / split) for split in ("train", "test")}
    clips = read_clips(speech_commands)
    test_clips = _of_test_speakers(clips, seed)
    tested = {clip.speaker for clip in test_clips}
    joined = join_clips([c for c in clips if c.speaker not in tested], folder / "train" / "joined", SECONDS, seed)
    words = {"train": joined, "test": test_clips}
    train, test = (
        DataDirectory(folder / split, [*of_split.utterances, *words[split]], of_split.genders)
        for split, of_split in sentences.items()
    )
    for data in (train, test):
        write_data_directory(data.path, data.utterances, data.genders)
    write_trials(folder / "test" / NAME, read_trials(folder / NAME / "test" / "trials"))
    ids, speakers = [clip.id for clip in test_clips], [clip.speaker for clip in test_clips]
    write_trials(folder / "test" / "speech_commands", make_trials(ids, speakers, seed, max_nontargets=NONTARGETS))
    return f"{described(train)} to train on, {described(test)} to test, lists {NAME} and speech_commands -> {folder}"


def _of_test_speakers(clips: list[Utterance], seed: int) -> list[Utterance]:
    """The clips of as many speakers as test, of those who have two clips or more."""
    counts = Counter(clip.speaker for clip in clips)
    several = sorted(speaker for speaker, count in counts.items() if count > 1)
    if len(several) < 2 * TEST_SPEAKERS:
        raise SpkverError(
            f"Speech Commands: {len(several)} speakers with two clips or more, {2 * TEST_SPEAKERS} are needed; "
            "get the whole corpus"
        )
    chosen = set(np.random.default_rng(seed).permutation(several)[:TEST_SPEAKERS].tolist())
    return [clip for clip in clips if clip.speaker in chosen]
