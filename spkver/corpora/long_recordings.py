"""Long recordings to segments with speech, as FLAC files at the rate of training."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from tqdm import tqdm

from spkver.corpora.inspection import BLOCK_SECONDS, Inspected
from spkver.corpora.sound_file import write_pcm16
from spkver.corpora.voice_activity import SAMPLE_RATE, VoiceActivity, speech_segments
from spkver.data.audio import check_samples
from spkver.data.directory import Utterance
from spkver.data.resampling import resample
from spkver.data.streaming import audio_blocks
from spkver.errors import SpkverError

MARK = ".made-by-spkver"
"""A file in the folder of segments: only a folder with it is ever replaced."""

Segments = list[tuple[Utterance, float]]
"""Segments and their seconds."""


def cut_recordings(
    recordings: Sequence[Inspected],
    folder: Path,
    sample_rate: int,
    max_seconds: float,
    min_seconds: float,
    workers: int = 2,
) -> list[Segments]:
    """Cut recordings by voice activity into ``folder/ID/NUMBER.flac``; the folder appears whole or not at all.

    Args:
        recordings: usable ones.
        folder: for the segments; an earlier one of this function is replaced.
        sample_rate: of the segments, Hz.
        max_seconds: of a segment.
        min_seconds: shorter stretches of speech are left out.
        workers: threads.

    Returns:
        The segments of each recording, none where nobody speaks; ids are the recording's with a number.

    Raises:
        SpkverError: the extra ``vad`` is missing, or the folder is somebody else's.
    """
    if folder.exists() and not (folder / MARK).exists():
        raise SpkverError(f"{folder}: is not a folder of segments made here; remove it, or choose another OUT")
    activity = VoiceActivity()
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    (aside / MARK).touch()
    cut = partial(
        _cut_one,
        activity=activity,
        aside=aside,
        folder=folder,
        rate=sample_rate,
        limits=(max_seconds, min_seconds),
    )
    with ThreadPool(workers) as pool:
        found = list(tqdm(pool.imap(cut, recordings), total=len(recordings), desc="cutting long files", disable=None))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    return found


def _cut_one(
    one: Inspected, activity: VoiceActivity, aside: Path, folder: Path, rate: int, limits: tuple[float, float]
) -> Segments:
    name = _inside(one.utterance.id)
    (aside / name).mkdir(parents=True)
    segments: Segments = []
    for samples in audio_blocks(one.utterance.path, rate, BLOCK_SECONDS):
        probabilities = activity.probabilities(resample(samples, rate, SAMPLE_RATE))
        for start, end in speech_segments(probabilities, *limits):
            part = samples[round(start * rate) : round(end * rate)]
            if check_samples(part) is not None:
                continue
            file = f"{len(segments):05d}.flac"
            write_pcm16(aside / name / file, part, rate)
            utterance = Utterance(
                f"{one.utterance.id}/{file[:5]}", folder.absolute() / name / file, one.utterance.speaker
            )
            segments.append((utterance, len(part) / rate))
    return segments


def _inside(utt: str) -> str:
    """An id as a relative path that cannot leave its folder: ids of a Kaldi directory are anybody's words."""
    parts = [part.replace(".", "%2E") if not part.strip(".") else part for part in utt.split("/") if part]
    return "/".join(parts)
