"""``kill -9`` at random moments: the next run ends with the bytes of one that nothing happened to, and leaves nothing.

``tests/campaign/run.sh`` runs it.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from children import ended, started

pytestmark = pytest.mark.slow

# Each works in `{here}`, a copy of the material; what it writes lies below `{here}/{folder}`.
VERBS = {
    "embed": ("exp/embeddings", "embed {data} {exp} --workers 1"),
    "embed, untrained": ("exp/embeddings", "embed {data} {exp} --untrained"),
    "import-embeddings": ("new", "import-embeddings {data} {here}/new {here}/embeddings/e.npz"),
    "export-embeddings": ("out", "export-embeddings {data} {exp} {here}/out/e.ark"),
    "score": ("exp/scores", "score {data} {exp}"),
    "norm": ("exp", "norm {data} {exp} --train {train} scoring.norm.top_n=2"),
    "plda": ("exp", "plda {data} {exp} --train {train} scoring.plda.lda_dim=2"),
    "calibrate": ("exp", "calibrate {data} {exp} --train {train}"),
    "fuse": ("fused", "fuse {data} {exp} {exp}:cosine+asnorm --train {train} --exp {here}/fused"),
    "evaluate": ("exp", "evaluate {data} {exp}"),
    "average": ("exp/model", "average {exp}"),
    "enroll": ("store", "enroll anna {train}/wav/v1/0.wav --store {here}/store --model {exp}/model --replace"),
    "prepare mini": ("mini", "prepare mini {here}/mini --train-voices 2 --test-voices 4 --sentences 2"),
    "prepare folder": ("own", "prepare folder {here}/own --audio {train}/wav --min-seconds 0.5 --test-speakers 3"),
    "export": ("onnx", "export {exp}/model --huggingface {here}/onnx"),
    "plot": ("pictures", "plot run {exp} --only records --out {here}/pictures"),
    "animate": ("pictures", "animate {exp} --frames 3 --figsize-per-plot 1 1 --out {here}/pictures/motion.gif"),
    "report": ("pictures", "report {exp} --out {here}/pictures/page.html"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_after_kills_a_verb_ends_as_if_nothing_had_happened(verb, material, tmp_path, pytestconfig):
    folder, words = VERBS[verb]
    here = tmp_path / "here"
    places = {"here": here, "exp": here / "exp", "data": here / "data" / "test", "train": here / "data" / "train"}
    words = words.format(**places).split()

    _fresh(material, here)
    start = time.monotonic()
    assert ended(started(words)) == 0
    seconds = time.monotonic() - start
    whole = dict(_contents(here / folder))
    assert whole

    rng = Random(verb)
    for _ in range(pytestconfig.getoption("--kills")):
        _fresh(material, here)
        process = started(words)
        time.sleep(seconds * rng.random())
        with contextlib.suppress(ProcessLookupError):  # it had ended
            os.killpg(process, signal.SIGKILL)
        ended(process)
        assert ended(started(words)) == 0, "the run after the kill failed"
        assert dict(_contents(here / folder)) == whole


def _fresh(material: Path, here: Path) -> None:
    """The material anew at the same path, with the times that its files had."""
    shutil.rmtree(here, ignore_errors=True)
    for name in ("exp", "data", "store", "embeddings"):
        shutil.copytree(material / name, here / name)


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes; the bytes not of records of what something was made of, which hold the times of files."""
    for path in sorted(folder.rglob("*")):
        has_bytes = path.is_file() and "made_of" not in str(path.relative_to(folder))
        yield str(path.relative_to(folder)), path.read_bytes() if has_bytes else b""
