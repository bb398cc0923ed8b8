"""The audio files of a corpus whose folders are its lists: speaker / recording / file."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from spkver.corpora.found_recordings import encoded


def audio_tree(folder: str | os.PathLike[str], depth: int, suffixes: Sequence[str]) -> dict[str, Path]:
    """Audio files exactly ``depth`` folders below a folder, by their relative names without suffix.

    Empty files, as broken downloads leave them, and hidden ones count as not there; so do those with a line end in
    their names, which no list can hold. What else an id cannot hold, such as white space, is written as ``%20``.

    Args:
        folder: is searched; symbolic links are followed.
        depth: 0 for files in the folder itself.
        suffixes: lower case, with the dot. Of a file that is there in several forms, the first of these is taken.

    Returns:
        Name such as ``id10001/1zcIwhmdeo4/00001`` -> path, sorted by name; empty where there is no such folder.
    """
    found: dict[str, tuple[int, Path]] = {}
    for entry, below in _files(folder, depth, ""):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() not in suffixes or entry.name.startswith(".") or entry.stat().st_size == 0:
            continue
        if "\n" in below + stem:
            continue
        choice = suffixes.index(suffix.lower()), Path(entry.path)
        name = encoded(below + stem)
        if name not in found or choice < found[name]:
            found[name] = choice
    return {name: found[name][1] for name in sorted(found)}


def _files(folder: str | os.PathLike[str], depth: int, below: str) -> Iterator[tuple[os.DirEntry, str]]:
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if depth and entry.is_dir():
                yield from _files(entry.path, depth - 1, f"{below}{entry.name}/")
            elif not depth and entry.is_file():
                yield entry, below
