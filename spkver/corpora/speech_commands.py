"""Speech Commands: single English words of about a second, by 2,618 volunteers on their own microphones; CC BY 4.0.

P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018. Made to spot words, it has what
small corpora of speaker verification lack: many people, each in their own room.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spkver.corpora.audio_tree import audio_tree
from spkver.corpora.download import download
from spkver.corpora.sound_file import write_pcm16
from spkver.corpora.unpack import unpack
from spkver.data.audio import check_samples, read_audio
from spkver.data.directory import Utterance
from spkver.errors import SpkverError

URL = "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
SAMPLE_RATE = 16000
_DIVIDER = "_nohash_"


def download_speech_commands(folder: str | os.PathLike[str], url: str = URL, checksum: str = SHA256) -> Path:
    """Fetch and unpack version 0.02 (2.4 GB, 105,829 clips) to ``folder/speech_commands``, unless it is there."""
    root = Path(folder) / "speech_commands"
    if not root.exists():
        unpack(download(url, Path(folder) / "speech_commands_v0.02.tar.gz", checksum=checksum), root)
    return root


def read_clips(corpus: str | os.PathLike[str]) -> list[Utterance]:
    """The clips ``WORD/SPEAKER_nohash_N.wav`` (or .flac, .ogg) of a copy, whole or in part.

    Returns:
        Utterances such as ``sc-0a7c2a8d-bed-0`` of the speaker ``sc-0a7c2a8d``.

    Raises:
        SpkverError: there are none.
    """
    utterances = []
    for place, path in audio_tree(corpus, 1, (".wav", ".flac", ".ogg")).items():
        word, _, name = place.partition("/")
        speaker, divider, number = name.partition(_DIVIDER)
        if divider:  # the rest is noise
            utterances.append(Utterance(f"sc-{speaker}-{word}-{number}", path.absolute(), f"sc-{speaker}"))
    if not utterances:
        raise SpkverError(f"{corpus}: no Speech Commands here (WORD/SPEAKER{_DIVIDER}N.wav is looked for)")
    return utterances


def join_clips(clips: Sequence[Utterance], folder: Path, seconds: float, seed: int) -> list[Utterance]:
    """Write each speaker's clips end to end, in a random order, as recordings of about ``seconds``.

    A crop then holds several words rather than one of them repeated, and a speaker is drawn as often as there is speech
    of it. Clips that are empty or silent are left out.

    Args:
        folder: of the FLAC files that are written.

    Raises:
        SpkverError: a clip cannot be read, or a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_speaker: dict[str, list[Utterance]] = {}
    for clip in clips:
        of_speaker.setdefault(clip.speaker, []).append(clip)
    joined = []
    for number, (speaker, own) in enumerate(
        tqdm(sorted(of_speaker.items()), desc="joining clips", unit="speaker", disable=None)
    ):
        order = np.random.default_rng([seed, number]).permutation(len(own))
        waves = [read_audio(own[index].path, SAMPLE_RATE) for index in order]
        pieces = _pieces([wave for wave in waves if check_samples(wave) is None], round(seconds * SAMPLE_RATE))
        for place, piece in enumerate(pieces):
            path = folder / f"{speaker}-{place}.flac"
            write_pcm16(path, piece, SAMPLE_RATE)
            joined.append(Utterance(path.stem, path, speaker))
    return joined


def _pieces(waves: list[np.ndarray], n_samples: int) -> list[np.ndarray]:
    """Recordings one after another in as many pieces as come nearest to a length, none of them cut."""
    total = sum(map(len, waves))
    groups: list[list[np.ndarray]] = [[] for _ in range(max(round(total / n_samples), 1))]
    begin = 0
    for wave in waves:
        groups[min(begin * len(groups) // total, len(groups) - 1)].append(wave)
        begin += len(wave)
    return [np.concatenate(group) for group in groups if group]
