"""Scoring at size: time and memory of spkver beside the usual ways, each in a process of its own, one after another.

``python recipes/benchmark/scoring.py [key=value ...]``; see ``scoring.yaml``. Memory is the highest resident set of
the process, less what it held before the work began (inputs included).
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from spkver.config import load_config
from spkver.config.schema import Count, Section
from spkver.errors import SpkverError

HERE = Path(__file__).parent


class Sizes(Section):
    trials: Count
    utterances: Count
    dimensions: Count
    loop_trials: Count
    plain_lines: Count
    scores: Count
    plain_scores: Count
    target_share: Annotated[float, Field(gt=0, lt=1)]
    cohort: Count
    top_n: Count
    plain_rows: Count
    seed: Count


class Measured:
    """Times a block, and how far it raises the process's highest memory."""

    def __enter__(self) -> "Measured":
        self._before = _resident_now()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self._start
        self.mib = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - self._before, 0)


def _resident_now() -> float:
    """MiB in memory; the highest value so far must be no more than this, so inputs are made without waste."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _embeddings(sizes: Sizes, n: int) -> np.ndarray:
    rng = np.random.default_rng(sizes.seed)
    rows = rng.standard_normal((n, sizes.dimensions), dtype=np.float32)
    for start in range(0, n, 4096):
        part = rows[start : start + 4096]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def _index(sizes: Sizes, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(sizes.seed + 1)
    return tuple(rng.integers(sizes.utterances, size=n, dtype=np.int64) for _ in range(2))


def _scored(sizes: Sizes, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(sizes.seed)
    labels = np.empty(n, np.int8)
    scores = rng.standard_normal(n, dtype=np.float32)
    for start in range(0, n, 1 << 20):
        part = slice(start, start + (1 << 20))
        labels[part] = rng.random(len(labels[part]), dtype=np.float32) < sizes.target_share
        scores[part] += 2 * labels[part]
    return scores, labels


# Each: (sizes, folder) -> (units of work, Measured). The docstring is the row's name.


def cosine_ours(sizes, folder):
    """cosine of a random list|spkver"""
    from spkver.scoring.backends.cosine import pair_products

    rows, (enroll, test) = _embeddings(sizes, sizes.utterances), _index(sizes, sizes.trials)
    pair_products(rows, rows, enroll[:1000], test[:1000])
    with Measured() as measured:
        pair_products(rows, rows, enroll, test)
    return sizes.trials, measured


def cosine_gather(sizes, folder):
    """cosine of a random list|numpy, gather and multiply in chunks of 100,000"""
    rows, (enroll, test) = _embeddings(sizes, sizes.utterances), _index(sizes, sizes.trials)
    scores = np.empty(sizes.trials, np.float32)
    with Measured() as measured:
        for start in range(0, sizes.trials, 100_000):
            part = slice(start, start + 100_000)
            scores[part] = (rows[enroll[part]] * rows[test[part]]).sum(1)
    return sizes.trials, measured


def cosine_loop(sizes, folder):
    """cosine of a random list|scikit-learn, one cosine_similarity a trial"""
    from sklearn.metrics.pairwise import cosine_similarity

    rows, (enroll, test) = _embeddings(sizes, sizes.utterances), _index(sizes, sizes.loop_trials)
    with Measured() as measured:
        for a, b in zip(enroll, test):
            cosine_similarity(rows[a].reshape(1, -1), rows[b].reshape(1, -1))[0][0]
    return sizes.loop_trials, measured


def _names(sizes):
    return [f"id{n // 30:05d}/v{n // 6:05d}/{n:06d}.wav" for n in range(sizes.utterances)]


def _write_list(sizes, n, path):
    from spkver.data.trials import Trials, write_trials

    enroll, test = _index(sizes, n)
    write_trials(path, Trials(_names(sizes), enroll, test, (enroll % 20 == test % 20).astype(np.int8)))


def read_ours(sizes, folder):
    """read a text trial list, ids to rows|spkver"""
    from spkver.data.trials import map_trials, read_trials

    _write_list(sizes, sizes.trials, folder / "trials")
    with Measured() as measured:
        map_trials(read_trials(folder / "trials"), _names(sizes), "utts")
    return sizes.trials, measured


def read_plain(sizes, folder):
    """read a text trial list, ids to rows|Python, line by line"""
    _write_list(sizes, sizes.plain_lines, folder / "trials")
    row_of = {name: row for row, name in enumerate(_names(sizes))}
    with Measured() as measured, open(folder / "trials") as file:
        columns = [line.split() for line in file]
        np.array([row_of[c[0]] for c in columns]), np.array([row_of[c[1]] for c in columns])
    return sizes.plain_lines, measured


def write_ours(sizes, folder):
    """write a text score file|spkver"""
    from spkver.data.trials import Trials
    from spkver.scoring.score_files import write_scores

    enroll, test = _index(sizes, sizes.trials)
    scores, labels = _scored(sizes, sizes.trials)
    trials = Trials(_names(sizes), enroll, test, labels)
    with Measured() as measured:
        write_scores(folder / "scores", trials, scores)
    return sizes.trials, measured


def write_plain(sizes, folder):
    """write a text score file|Python, line by line"""
    names, (enroll, test) = _names(sizes), _index(sizes, sizes.plain_lines)
    scores, labels = _scored(sizes, sizes.plain_lines)
    with Measured() as measured, open(folder / "scores", "w") as file:
        for a, b, score, label in zip(enroll, test, scores, labels):
            file.write(f"{names[a]} {names[b]} {score:.9g} {('nontarget', 'target')[label]}\n")
    return sizes.plain_lines, measured


def metrics_ours(sizes, folder):
    """EER and minDCF|spkver"""
    from spkver.scoring.metrics.sorted_scores import SortedScores

    scores, labels = _scored(sizes, sizes.scores)
    with Measured() as measured:
        ordered = SortedScores(scores, labels)
        ordered.equal_error_rate(), ordered.min_dcf(0.01), ordered.min_dcf(0.05)
    return sizes.scores, measured


def metrics_sort(sizes, folder):
    """EER and minDCF|numpy, full sort and cumulative sums"""
    scores, labels = _scored(sizes, sizes.plain_scores)
    with Measured() as measured:
        is_target = labels[np.argsort(scores)]
        fnr = np.cumsum(is_target) / is_target.sum()
        fpr = 1 - np.cumsum(1 - is_target) / (1 - is_target).sum()
        fnr[np.nanargmin(abs(fnr - fpr))], min(0.01 * fnr + 0.99 * fpr), min(0.05 * fnr + 0.95 * fpr)
    return sizes.plain_scores, measured


def asnorm_ours(sizes, folder):
    """AS-norm statistics|spkver"""
    from spkver.scoring.backends.score_norm import cohort_statistics

    rows, cohort = _embeddings(sizes, sizes.utterances), _embeddings(sizes, sizes.cohort)
    with Measured() as measured:
        cohort_statistics(rows, cohort, sizes.top_n)
    return sizes.utterances, measured


def asnorm_product(sizes, folder):
    """AS-norm statistics|the bare float32 matrix product"""
    rows, cohort = _embeddings(sizes, sizes.utterances), _embeddings(sizes, sizes.cohort)
    out = np.empty((8192, sizes.cohort), np.float32)
    with Measured() as measured:
        for start in range(0, len(rows), 8192):
            part = rows[start : start + 8192]
            np.matmul(part, cohort.T, out=out[: len(part)])
    return sizes.utterances, measured


def asnorm_sort(sizes, folder):
    """AS-norm statistics|numpy, product of all rows at once and a full sort"""
    rows, cohort = _embeddings(sizes, sizes.plain_rows), _embeddings(sizes, sizes.cohort)
    with Measured() as measured:
        top = np.sort(rows @ cohort.T, axis=1)[:, -sizes.top_n :]
        top.mean(1), top.std(1)
    return sizes.plain_rows, measured


ROWS = (
    (cosine_ours, cosine_gather, cosine_loop),
    (read_ours, read_plain),
    (write_ours, write_plain),
    (metrics_ours, metrics_sort),
    (asnorm_ours, asnorm_product, asnorm_sort),
)


def main(overrides: list[str]) -> None:
    """Measure every row, ours first, and print the table."""
    print(f"{'what':<42} {'how':<58} {'items':>11} {'seconds':>8} {'us an item':>11} {'beside ours':>12} {'MiB':>7}")
    for group in ROWS:
        own = None
        for function in group:
            done = subprocess.run(
                [sys.executable, __file__, "--one", function.__name__, *overrides], stdout=subprocess.PIPE, check=True
            )
            n, seconds, mib = json.loads(done.stdout)
            each = 1e6 * seconds / n
            own = own or each
            what, how = function.__doc__.split("|")
            ratio = "" if own == each else f"{each / own:.2f} x"
            print(f"{what:<42} {how:<58} {n:>11,} {seconds:>8.1f} {each:>11.3f} {ratio:>12} {mib:>7.0f}", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    try:
        sizes = load_config(HERE / "scoring.yaml", arguments[2:] if arguments[:1] == ["--one"] else arguments, Sizes)
    except SpkverError as error:
        sys.exit(str(error))
    if arguments[:1] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            n, measured = globals()[arguments[1]](sizes, Path(folder))
        print(json.dumps([n, measured.seconds, measured.mib]))
    else:
        main(arguments)
