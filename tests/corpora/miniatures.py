"""Miniatures of public corpora in their true layout: names, folder depth, line ends and formats as published."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile

FFMPEG = shutil.which("ffmpeg")
LISTS = {
    "veri_test.txt": False,
    "veri_test2.txt": False,
    "list_test_all.txt": True,
    "list_test_all2.txt": True,
    "list_test_hard.txt": True,
    "list_test_hard2.txt": True,
}
"""VoxCeleb's trial lists, and whether each takes speakers beyond the test set."""


class EmbeddingSet:
    """Made-up speakers: harmonics under formants of their own."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.of: dict[str, tuple[float, np.ndarray]] = {}

    def speak(self, speaker: str, path: Path, seconds: float | None = None) -> Path:
        """Write a new recording of a speaker to a file whose suffix says its format."""
        f0, formants = self.of.setdefault(speaker, (self.rng.uniform(90, 220), self.rng.uniform(300, 3800, 4)))
        time = np.arange(int(16000 * (seconds or self.rng.uniform(0.6, 1.0)))) / 16000
        phase = 2 * np.pi * f0 * np.cumsum(1 + 0.1 * np.sin(2 * np.pi * self.rng.uniform(1, 4) * time)) / 16000
        harmonics = np.arange(1, 25)
        loudness = np.exp(-(((harmonics[:, None] * f0 - formants) / 200) ** 2)).sum(1) + 0.02
        samples = (loudness[:, None] * np.sin(harmonics[:, None] * phase)).sum(0)
        samples += 0.05 * self.rng.standard_normal(len(samples))
        path.parent.mkdir(parents=True, exist_ok=True)
        wav = path.with_suffix(".wav") if path.suffix == ".m4a" else path
        soundfile.write(wav, 0.3 * samples / np.abs(samples).max(), 16000)
        if path.suffix == ".m4a":
            words = [FFMPEG, "-nostdin", "-v", "error", "-i", wav, "-c:a", "aac", "-y", path]
            subprocess.run(words, check=True)
            wav.unlink()
        return path


def make_voxceleb(root: Path, vox2_suffix: str = ".m4a") -> Path:
    """VoxCeleb1 with 3 + 4 speakers, VoxCeleb2 with 10, two videos of two files each; lists with CRLF."""
    voices = EmbeddingSet()
    vox1: dict[str, list[str]] = {}
    for split, speakers in (("dev", ("id10001", "id10269", "id11251")), ("test", [f"id102{n}" for n in range(70, 74)])):
        for speaker in speakers:
            for video in ("1zcIwhmdeo4", "-7gKbxbC9Ag"):
                for take in ("00001", "00002"):
                    name = f"{speaker}/{video}/{take}.wav"
                    voices.speak(speaker, root / "voxceleb1" / split / "wav" / name)
                    vox1.setdefault(speaker, []).append(name)
    folder = "aac" if vox2_suffix == ".m4a" else "wav"
    vox2 = [f"id{n:05}" for n in range(12, 22)]
    for speaker in vox2:
        for video, take in (("21Uxsk56VDQ", "00001"), ("21Uxsk56VDQ", "00002"), ("00-qODbtozw", "00059")):
            voices.speak(speaker, root / "voxceleb2" / "dev" / folder / speaker / video / f"{take}{vox2_suffix}")

    for file, all_speakers in LISTS.items():
        chosen = [speaker for speaker in vox1 if all_speakers or "id10270" <= speaker <= "id10309"]
        lines = []
        for speaker, other in zip(chosen, chosen[1:] + chosen[:1]):
            lines += [f"1 {vox1[speaker][n]} {vox1[speaker][n + 1]}" for n in range(3)]
            lines += [f"0 {vox1[speaker][n]} {vox1[other][n]}" for n in range(3)]
        (root / file).write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    rows = [f"{s}\tName_{s}\t{'mf'[n % 2]}\tIreland\tdev" for n, s in enumerate(vox1)]
    header = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
    (root / "vox1_meta.csv").write_text("\n".join([header, *rows]) + "\n")
    rows = [f"{s} ,n{s[2:]} ,{'mf'[n % 2]} ,dev " for n, s in enumerate(vox2)]
    (root / "vox2_meta.csv").write_text("\n".join(["VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set ", *rows]) + "\n")
    return root


def make_librispeech(root: Path) -> Path:
    """``LibriSpeech``: 9 speakers to train on and 4 in each test subset, two chapters of two and three utterances."""
    voices, number = EmbeddingSet(), 18
    rows = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for subset, n_speakers in (("train-clean-100", 9), ("test-clean", 4), ("test-other", 4)):
        for _ in range(n_speakers):
            number += 1
            rows.append(f"{number:<4} | {'FM'[number // 2 % 2]} | {subset:<16} | 25.03 | Some | Body")
            for chapter in (198, 227):
                folder = root / "LibriSpeech" / subset / str(number) / str(chapter)
                ids = [f"{number}-{chapter}-{n:04}" for n in range(2 + (chapter == 227))]
                for utt in ids:
                    voices.speak(str(number), folder / f"{utt}.flac")
                (folder / f"{number}-{chapter}.trans.txt").write_text("".join(f"{utt} SOME WORDS\n" for utt in ids))
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("\n".join(rows) + "\n")
    return root


def make_cnceleb(root: Path) -> Path:
    """CN-Celeb1 with 4 + 3 speakers and CN-Celeb2 with 6: lists name ``.wav``, the files are ``.flac``."""
    voices, cn1, cn2 = EmbeddingSet(), root / "CN-Celeb_flac", root / "CN-Celeb2_flac"
    kinds = ("singing-01-001", "singing-01-002", "interview-02-013", "drama-03-004")
    dev, evaluated = [f"id{n:05}" for n in range(4)], [f"id{n:05}" for n in range(800, 803)]
    for speaker in dev + evaluated:
        for kind in kinds:
            voices.speak(speaker, cn1 / "data" / speaker / f"{kind}.flac")
    for speaker in (later := [f"id{n:05}" for n in range(10000, 10006)]):
        for kind in kinds[:3]:
            voices.speak(speaker, cn2 / "data" / speaker / f"{kind}.flac")
    lists: dict[Path, list[str]] = {
        cn1 / "dev" / "dev.lst": dev,
        cn2 / "spk.lst": later,
        cn1 / "eval" / "lists" / "enroll.lst": [f"{s}-enroll enroll/{s}-enroll.wav" for s in evaluated],
        cn1 / "eval" / "lists" / "enroll.map": [f"{s}-enroll {s}/{kinds[0]}.wav {s}/{kinds[2]}.wav" for s in evaluated],
    }
    tests = [f"{speaker}-{kind}" for speaker in evaluated for kind in ("play-01-001", "vlog-02-001")]
    for test in tests:
        voices.speak(test.partition("-")[0], cn1 / "eval" / "test" / f"{test}.flac")
    for speaker in evaluated:
        voices.speak(speaker, cn1 / "eval" / "enroll" / f"{speaker}-enroll.flac", seconds=2.0)
    lists[cn1 / "eval" / "lists" / "trials.lst"] = [
        f"{speaker}-enroll test/{test}.wav {int(test.startswith(speaker))}" for speaker in evaluated for test in tests
    ]
    for path, lines in lists.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return root


def make_musan(root: Path) -> Path:
    """Two files of each category, beside the ANNOTATIONS and LICENSE that are no audio."""
    voices = EmbeddingSet()
    for category, source in (("noise", "free-sound"), ("music", "fma"), ("speech", "librivox")):
        for n in range(2):
            voices.speak(f"{category}{n}", root / "musan" / category / source / f"{category}-{source}-000{n}.wav")
        (root / "musan" / category / source / "LICENSE").write_text("CC BY 4.0\n")
    return root / "musan"


def make_rirs_noises(root: Path) -> Path:
    """Two simulated rooms of each size, a recorded response and a point-source noise."""
    rng, top = np.random.default_rng(0), root / "RIRS_NOISES"
    names = [
        f"simulated_rirs/{size}room/Room00{n}/Room00{n}-00001" for size in ("small", "medium", "large") for n in (1, 2)
    ]
    names += [
        "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla",
        "pointsource_noises/noise-free-sound-0000",
    ]
    for name in names:
        path = top / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        response = rng.standard_normal(1600) * np.exp(-np.arange(1600) / 200)
        soundfile.write(path, 0.5 * response / np.abs(response).max(), 16000)
    return top
