"""Embeddings of other toolkits, in and out, in forms that are recognised by name, or else by content:

- a folder of spkver's own, with ``embeddings.npy`` and ``utts``;
- a folder of one ``.npy`` an utterance (3D-Speaker, ESPnet), also in folders within;
- a Kaldi archive of vectors (``.ark``, binary or text), or its ``.scp``;
- one array (N, D) as ``.npy``, with its ids in ``NAME.utts`` or ``utts`` beside it, one a line;
- ``.npz`` of arrays ``embeddings`` (N, D) and ``utts`` (N,), or of one array an utterance, named by its id.

Nothing that is read can run anything. Pickles (``.pt``, ``.pkl``, object arrays), Kaldi's pipes and the
like are refused, with a word on how to save the embeddings instead.
"""

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from spkver.data.lookup import check_ids
from spkver.data.text_tables import table_rows
from spkver.embedding.arrays import map_npy, read_member, read_npy, readable
from spkver.embedding.folder import read_embeddings
from spkver.embedding.kaldi_archive import read_ark, read_scp, starts_entry, write_ark
from spkver.embedding.rows import Where, as_vector, check_embeddings, stacked
from spkver.errors import SpkverError
from spkver.files import atomic_write, is_file

_SAVE_AGAIN = "save it again as float32, ids as np.array(utts, dtype=str), without pickle"


def import_embeddings(
    source: str | os.PathLike[str],
    utts: str | os.PathLike[str] | None = None,
    basenames: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Read embeddings of any toolkit.

    Args:
        source: a file or a folder.
        utts: for ``npy`` only: the file of ids, one a line.
        basenames: for ``files`` only: an id is the file's name without its folders. As a rule it is the path
            within ``source``; both are without the suffix.

    Returns:
        ``(embeddings, utts)``: (N, D) float32, which may be a read-only map of the file, and N ids. The order is
        that of the source; of a folder of files and of its ids, sorted.

    Raises:
        SpkverError: the form is not recognised, or something is wrong, in one line that names the file, the line
            or byte, and the utterance: what is cut off, no vector, of other dimensions than another utterance,
            NaN, infinite, zero, empty, or an id that is there twice (with both places).
    """
    source = Path(source)
    if not is_file(source) and not source.is_dir():
        raise SpkverError(f"{source}: no such file or folder; give a path, without specifier or command")
    form = _recognised(source)
    if utts is not None and form != "npy":
        raise SpkverError(f"{utts}: a file of ids goes with the form npy; {source} is {form}, which has its own")
    if basenames and form != "files":
        raise SpkverError(f"{source}: base names as ids go with the form files, and this is {form}")
    if form == "folder":
        return read_embeddings(source)
    if form == "files":
        return _read_files(source, basenames)
    if form == "npy":
        return _read_npy(source, None if utts is None else Path(utts))
    return {"scp": read_scp, "ark": read_ark, "npz": _read_npz}[form](source)


def export_kaldi(
    embeddings: np.ndarray, utts: Sequence[str], ark_path: str | os.PathLike[str], scp_path: str | os.PathLike[str]
) -> None:
    """Write a binary archive of float vectors and its scp, each whole or not at all, the scp last.

    Args:
        embeddings: (N, D), kept as float32.
        utts: N utterance ids.
        ark_path: stands in the scp as given: a relative one is relative to the current directory, as in Kaldi.
        scp_path: the scp.

    Raises:
        SpkverError: counts differ, there are no embeddings, an id is there twice or cannot be written, a row is
            NaN, infinite or zero, or a path that an scp cannot hold.
        ValueError: ``embeddings`` is not a two-dimensional array of numbers.
    """
    write_ark(_exportable(embeddings, utts, ark_path), utts, ark_path, scp_path)


def export_npz(embeddings: np.ndarray, utts: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Write arrays ``embeddings`` (N, D) float32 and ``utts`` (N,) of text, whole or not at all.

    Raises:
        SpkverError: as `export_kaldi`.
        ValueError: as `export_kaldi`.
    """
    rows = _exportable(embeddings, utts, path)
    with atomic_write(path, "wb") as file:
        np.savez(file, embeddings=rows, utts=np.array(utts, dtype=str))


def ids_of_paths(paths: Sequence[Path], ids: Sequence[str]) -> list[str]:
    """The ids that some rule made of paths, unless two paths got the same one.

    Raises:
        SpkverError: naming both paths; scored under one id, one utterance would pass for the other.
    """
    path_of: dict[str, Path] = {}
    for path, utt in zip(paths, ids):
        if path_of.setdefault(utt, path) is not path:
            raise SpkverError(f"{path}: has the id '{utt}', as {path_of[utt]} has; use paths as ids, or rename")
    return list(ids)


def _recognised(source: Path) -> str:
    if source.is_dir():
        own = any((source / name).is_file() for name in ("embeddings.npy", "utts"))
        return "folder" if own else "files"
    suffix = source.suffix.lower().removeprefix(".")
    if suffix in ("scp", "ark", "npy", "npz"):
        return suffix
    if suffix in ("pt", "pth", "pkl", "pickle"):
        raise SpkverError(f"{source}: a pickle can run anything and is never loaded; write .npz by np.savez")
    with source.open("rb") as file:
        begin = file.read(4096)
    if begin.startswith(b"\x93NUMPY"):
        return "npy"
    if begin.startswith(b"PK"):
        return "npz"
    if starts_entry(begin):
        return "ark"
    if b"\0" not in begin and len(begin.split(b"\n", 1)[0].split()) > 1:
        return "scp"
    raise SpkverError(
        f"{source}: neither its name nor its first bytes tell the form; let it end in .scp, .ark, .npy or .npz"
    )


def _read_npy(path: Path, ids: Path | None) -> tuple[np.ndarray, list[str]]:
    array = map_npy(path, _SAVE_AGAIN)
    _check_matrix(array, str(path))
    ids = ids or next((file for file in (path.with_suffix(".utts"), path.parent / "utts") if file.is_file()), None)
    if ids is None:
        raise SpkverError(f"{path}: has neither {path.stem}.utts nor utts, one id a line, beside it")
    utts, lines = [], []
    for line, columns in table_rows(ids):
        if len(columns) != 1:
            raise SpkverError(f"{ids}:{line}: {len(columns)} columns; expected one utterance id")
        utts.append(columns[0])
        lines.append(line)
    return _checked(array, utts, str(path), lambda index: f"{ids}:{lines[index]}"), utts


def _read_npz(path: Path) -> tuple[np.ndarray, list[str]]:
    # By zipfile: numpy's reader overlooks a name that is there twice, and older ones search all names for each.
    with readable(path, _SAVE_AGAIN):
        archive = zipfile.ZipFile(path)
    with archive:
        return _read_arrays(path, archive)


def _read_arrays(path: Path, archive: zipfile.ZipFile) -> tuple[np.ndarray, list[str]]:
    members = archive.namelist()
    for member in members:
        if not member.endswith(".npy"):
            raise SpkverError(f"{path}: {member!r} in it is no array; a torch file is a pickle, {_SAVE_AGAIN}")
    names = [member.removesuffix(".npy") for member in members]
    if not names:
        raise SpkverError(f"{path}: there are no embeddings")

    def where(index: int) -> str:
        return f"{path}, array {index + 1}"

    check_ids(names, where)
    if {"embeddings", "utts"} <= set(names):
        array, utts = (_member(path, archive, f"{name}.npy") for name in ("embeddings", "utts"))
        _check_matrix(array, f"{path}: 'embeddings'")
        if utts.dtype.kind != "U" or utts.ndim != 1:
            raise SpkverError(f"{path}: 'utts' must be text (N,), found {utts.dtype} {utts.shape}; {_SAVE_AGAIN}")
        utts = utts.tolist()
        return _checked(array, utts, str(path), lambda index: f"{path}, row {index + 1}"), utts
    arrays = (_member(path, archive, member) for member in members)
    return stacked(_vectors(arrays, [f"{path}: '{name}'" for name in names]), names, where), names


def _read_files(folder: Path, basenames: bool) -> tuple[np.ndarray, list[str]]:
    # Beside its files macOS keeps others, called `._NAME`.
    paths = sorted(folder.rglob("[!.]*.npy"), key=lambda path: path.relative_to(folder).as_posix())
    if not paths:
        raise SpkverError(f"{folder}: holds neither embeddings.npy and utts nor one .npy an utterance")
    ids = [path.stem if basenames else path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    utts = ids_of_paths(paths, ids)

    def where(index: int) -> str:
        return str(paths[index])

    check_ids(utts, where)
    return stacked(_vectors(map(_loaded, paths), list(map(str, paths))), utts, where), utts


def _vectors(arrays: Iterable[np.ndarray], names: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
    for index, array in enumerate(arrays):
        vector = as_vector(array)
        if vector is None:
            raise SpkverError(f"{names[index]}: expected one vector of numbers, found {array.dtype} {array.shape}")
        yield index, vector


def _loaded(path: Path) -> np.ndarray:
    return read_npy(path, _SAVE_AGAIN)


def _member(path: Path, archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with readable(f"{path}: '{member.removesuffix('.npy')}'", _SAVE_AGAIN):
        return read_member(archive, member)


def _check_matrix(array: np.ndarray, name: str) -> None:
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise SpkverError(f"{name}: expected numbers (N, D), found {array.dtype} {array.shape}; {_SAVE_AGAIN}")


def _checked(array: np.ndarray, utts: Sequence[str], name: str, where: Where) -> np.ndarray:
    """A matrix as float32, its rows and ids checked."""
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is named below
        rows = np.ascontiguousarray(array, dtype=np.float32)
    check_embeddings(rows, utts, name, where)
    return rows


def _exportable(embeddings: np.ndarray, utts: Sequence[str], path: str | os.PathLike[str]) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise ValueError(f"embeddings must be (N, D) numbers, got {embeddings.dtype} {embeddings.shape}")
    if not embeddings.size:
        raise SpkverError(f"{path}: there are no embeddings to write, the array is {embeddings.shape}")
    return _checked(embeddings, utts, str(path), lambda index: f"{path}, row {index + 1}")
