"""MUSAN (OpenSLR 17), RIRS_NOISES (OpenSLR 28) and ESC-10: noise, music, speech and rooms, as `utt path` lists.

Snyder et al., "MUSAN: A Music, Speech, and Noise Corpus", 2015; Ko et al., "A study on data augmentation of
reverberant speech for robust speech recognition", ICASSP 2017; Piczak, "ESC: Dataset for Environmental Sound
Classification", ACM Multimedia 2015. The lists are what ``augment.noise.list`` and ``augment.reverb.list`` of a
configuration name.
"""

import csv
import os
from pathlib import Path

from spkver.corpora.audio_tree import audio_tree
from spkver.corpora.download import download
from spkver.corpora.published import tell_incomplete
from spkver.corpora.unpack import unpack, unpack_zip
from spkver.errors import SpkverError
from spkver.files import atomic_write

MUSAN_URL = "https://www.openslr.org/resources/17/musan.tar.gz"
MUSAN_MD5 = "0c472d4fc0c5141eca47ad1ffeb2a7df"
MUSAN_COUNTS = {"noise": 930, "music": 660, "speech": 426}
RIRS_URL = "https://www.openslr.org/resources/28/rirs_noises.zip"
RIRS_MD5 = "e6f48e257286e05de56413b4779d8ffb"
RIRS_COUNTS = {"smallroom": 20_000, "mediumroom": 20_000, "largeroom": 20_000}
ESC_URL = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"
ESC10_COUNTS = {"clips": 400}


def prepare_musan(corpus: str | os.PathLike[str], folder: str | os.PathLike[str], partial: bool = False) -> str:
    """Write the lists ``noise``, ``music``, ``speech`` and ``noise_and_music`` into ``folder``.

    Args:
        corpus: ``musan`` itself or the folder above it: ``CATEGORY/SOURCE/FILE.wav``.

    Raises:
        SpkverError: it is not there or incomplete.
    """
    root = _find(Path(corpus), "musan", "noise")
    files = {name: audio_tree(root / name, 1, (".wav",)) for name in MUSAN_COUNTS}
    _check(root, {name: len(found) for name, found in files.items()}, MUSAN_COUNTS, partial)
    lists = {name: {f"{name}/{utt}": path for utt, path in found.items()} for name, found in files.items()}
    return _write(Path(folder), {**lists, "noise_and_music": lists["noise"] | lists["music"]})


def prepare_rirs_noises(corpus: str | os.PathLike[str], folder: str | os.PathLike[str], partial: bool = False) -> str:
    """Write ``simulated_rirs`` (60,000 rooms), ``small_and_medium_rirs`` and ``pointsource_noises`` into ``folder``.

    The recorded responses of the archive are left out: they are of microphone arrays, whose channels would be averaged.

    Args:
        corpus: ``RIRS_NOISES`` itself or the folder above it.

    Raises:
        SpkverError: it is not there or incomplete.
    """
    root = _find(Path(corpus), "RIRS_NOISES", "simulated_rirs")
    files = {size: audio_tree(root / "simulated_rirs" / size, 1, (".wav",)) for size in RIRS_COUNTS}
    _check(root / "simulated_rirs", {size: len(found) for size, found in files.items()}, RIRS_COUNTS, partial)
    rooms = {size: {f"{size}/{utt}": path for utt, path in found.items()} for size, found in files.items()}
    small_and_medium = rooms["smallroom"] | rooms["mediumroom"]
    lists = {"simulated_rirs": small_and_medium | rooms["largeroom"], "small_and_medium_rirs": small_and_medium}
    noises = audio_tree(root / "pointsource_noises", 0, (".wav",))
    return _write(Path(folder), lists | ({"pointsource_noises": noises} if noises else {}))


def prepare_esc10(corpus: str | os.PathLike[str], folder: str | os.PathLike[str], partial: bool = False) -> str:
    """Write the list ``noise`` of ESC-10's clips, the part of ESC-50 that may be used for anything (CC BY 3.0).

    Args:
        corpus: ESC-50, with ``meta/esc50.csv`` and ``audio/``; or ESC-10 alone, ``CLASS/CLIP.ogg`` (or .wav).

    Raises:
        SpkverError: it is not there or incomplete.
    """
    root = Path(corpus).absolute()
    files = audio_tree(root, 1, (".wav", ".ogg"))
    if (root / "meta" / "esc50.csv").is_file():
        free = _clips_of_esc10(root / "meta" / "esc50.csv")
        files = {name: path for name, path in files.items() if path.name in free}
    _check(root, {"clips": len(files)}, ESC10_COUNTS, partial)
    return _write(Path(folder), {"noise": files})


def _clips_of_esc10(path: Path) -> set[str]:
    """The file names of the clips that are in ESC-10, from ESC-50's table."""
    try:
        with open(path, encoding="utf-8", newline="") as table:
            return {row["filename"] for row in csv.DictReader(table) if row["esc10"] == "True"}
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise SpkverError(f"{path}: is not ESC-50's table (columns filename and esc10); unpack it again") from None


def download_esc50(folder: str | os.PathLike[str], url: str = ESC_URL) -> Path:
    """Fetch and unpack ESC-50 (0.6 GB), which ESC-10 is a part of, to ``folder/ESC-50``, unless it is there."""
    root = Path(folder) / "ESC-50"
    if not root.exists():
        unpack_zip(download(url, Path(folder) / "esc50.zip"), root, top="ESC-50-master")
    return root


def download_musan(folder: str | os.PathLike[str], url: str = MUSAN_URL) -> Path:
    """Fetch and unpack MUSAN (11 GB) to ``folder/musan``, unless it is there."""
    root = Path(folder) / "musan"
    if not root.exists():
        unpack(download(url, Path(folder) / "musan.tar.gz", checksum=MUSAN_MD5), root, top="musan")
    return root


def download_rirs_noises(folder: str | os.PathLike[str], url: str = RIRS_URL) -> Path:
    """Fetch and unpack RIRS_NOISES (1.3 GB) to ``folder/RIRS_NOISES``, unless it is there."""
    root = Path(folder) / "RIRS_NOISES"
    if not root.exists():
        unpack_zip(download(url, Path(folder) / "rirs_noises.zip", checksum=RIRS_MD5), root, top="RIRS_NOISES")
    return root


def _find(corpus: Path, name: str, inside: str) -> Path:
    for root in (corpus, corpus / name):
        if (root / inside).is_dir():
            return root.absolute()
    raise SpkverError(f"{corpus}: no {name} here (looked for {inside}/); leave --corpus away to download it")


def _check(place: Path, found: dict[str, int], published: dict[str, int], partial: bool) -> None:
    if found != published:
        told = ", ".join(f"{name} {found[name]:,} of {published[name]:,}" for name in published)
        tell_incomplete(f"{place}: files found of those published: {told}", partial and any(found.values()))


def _write(folder: Path, lists: dict[str, dict[str, Path]]) -> str:
    for name, files in lists.items():
        if files:
            with atomic_write(folder / name, "wb") as file:
                file.writelines(_line(utt, path) for utt, path in files.items())
    return ", ".join(f"{name} ({len(files):,} files)" for name, files in lists.items()) + f" -> {folder}"


def _line(utt: str, path: Path) -> bytes:
    if "\n" in str(path):
        raise SpkverError(f"{path}: a list cannot hold a path with a line end; rename the folder")
    return f"{utt} {path}\n".encode("utf-8", "surrogateescape")  # names on the disk need not be UTF-8
