"""Audio that libsndfile cannot read (AAC in ``.m4a``) to FLAC or WAV, by ffmpeg, many files at once.

A file gets its name when it is whole, so a conversion that was stopped goes on where it was.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from tqdm import tqdm

from spkver.data.machine import usable_cores
from spkver.errors import SpkverError

FORMATS = ("flac", "wav")
# A full disk or a broken ffmpeg fails at every file; a damaged archive at a few.
_MOST_FAILURES = 100


def convert(pairs: Iterable[tuple[Path, Path]], sample_rate: int = 16000, jobs: int | None = None) -> dict[Path, str]:
    """Convert files to mono, 16 bits, at one rate; what is there already stays.

    Args:
        pairs: source and target; the target's suffix says its format (one of ``FORMATS``).
        sample_rate: Hz.
        jobs: files at a time, each by an ffmpeg of one thread; None: one for each core of this process.

    Returns:
        Source -> what ffmpeg said, of the files that could not be converted.

    Raises:
        SpkverError: ffmpeg is not installed, or more than 100 files fail.
    """
    waiting = [(source, target) for source, target in pairs if not _is_whole(target)]
    if not waiting:
        return {}
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise SpkverError(
            f"{waiting[0][0]}: ffmpeg is needed to convert {len(waiting):,} files, and it is not installed; "
            "install it (apt-get install ffmpeg, brew install ffmpeg or conda install ffmpeg) and run again"
        )
    for folder in {target.parent for _, target in waiting}:
        folder.mkdir(parents=True, exist_ok=True)
    failed: dict[Path, str] = {}
    with ThreadPool(jobs or usable_cores()) as pool:
        done = pool.imap_unordered(partial(_convert, ffmpeg, sample_rate), waiting)
        for source, fault in tqdm(done, total=len(waiting), desc="converting", unit="file", disable=None):
            if fault:
                failed[source] = fault
            if len(failed) > _MOST_FAILURES:
                first = next(iter(failed))
                raise SpkverError(
                    f"{first}: {failed[first]}; {len(failed)} files failed like this, so no more are tried"
                )
    return failed


def _convert(ffmpeg: str, sample_rate: int, pair: tuple[Path, Path]) -> tuple[Path, str | None]:
    """Convert one file; returns it with what went wrong, or None."""
    # ffmpeg takes a relative name that begins with '-' for an option, and one with a colon for a protocol.
    source, target = pair[0], pair[1].absolute()
    aside = target.with_name(f".{target.name}.part")
    words = [
        ffmpeg,
        "-nostdin",
        "-v",
        "error",
        "-xerror",
        "-threads",
        "1",
        "-i",
        str(source.absolute()),
        "-map",
        "0:a:0",
    ]
    words += ["-ac", "1", "-ar", str(sample_rate), "-sample_fmt", "s16", "-map_metadata", "-1", "-fflags", "+bitexact"]
    words += ["-f", target.suffix[1:], "-y", str(aside)]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if ended.returncode == 0 and aside.is_file() and aside.stat().st_size:
        os.replace(aside, target)
        return source, None
    aside.unlink(missing_ok=True)
    said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return source, f"ffmpeg says: {said[-1] if said else f'nothing, and ends with status {ended.returncode}'}"


def _is_whole(target: Path) -> bool:
    try:
        return target.stat().st_size > 0
    except FileNotFoundError:
        return False
