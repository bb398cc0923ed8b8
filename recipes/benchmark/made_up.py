"""A made-up data directory of any size, whose lists name the thousand recordings of one shard again and again."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile

RECORDINGS, SECONDS, SAMPLE_RATE = 1000, 1.0, 16000


def make_directory(folder: Path, n: int, n_speakers: int) -> None:
    """Write ``n`` utterances of ``n_speakers``, as many of each, with ids of VoxCeleb's length; ready for training."""
    folder.mkdir(parents=True, exist_ok=True)
    places = _shard(folder / "shard-000000.tar")
    with (folder / "wav.scp").open("w") as audio, (folder / "utt2spk").open("w") as speakers:
        for index, (utterance, speaker) in enumerate(_names(n, n_speakers)):
            audio.write(f"{utterance} shard-000000.tar:{places[index % RECORDINGS]}\n")
            speakers.write(f"{utterance} {speaker}\n")
    # As the audio check leaves it, which says that all can be used.
    (folder / "unusable").touch()
    with (folder / "utt2dur").open("w") as durations:
        durations.writelines(f"{utterance} {SECONDS}\n" for utterance, _ in _names(n, n_speakers))


def _names(n: int, n_speakers: int):
    for index in range(n):
        speaker = f"id{index * n_speakers // n:06d}"
        yield f"{speaker}/{index % 150_000:011d}/{index % 300:05d}.wav-{index}", speaker


def _shard(path: Path) -> list[str]:
    """Write the recordings; ``offset:size`` of each."""
    rng, places = np.random.default_rng(0), []
    with tarfile.open(path, "w") as tar:
        for index in range(RECORDINGS):
            content = io.BytesIO()
            samples = 0.1 * rng.standard_normal(round(SECONDS * SAMPLE_RATE))
            soundfile.write(content, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
            member = tarfile.TarInfo(f"{index:06d}.wav")
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
            places.append(f"{tar.offset - -(-member.size // 512) * 512}:{member.size}")
    return places
