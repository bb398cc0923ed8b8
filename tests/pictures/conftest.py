"""A finished tiny run with scores, for the pictures."""

import shutil
from itertools import combinations

import pytest
from headless import started

from spkver.cli import main
from spkver.data.directory import read_data_directory


@pytest.fixture(scope="session")
def trials(voices, tmp_path_factory):
    """All pairs of utterances."""
    path = tmp_path_factory.mktemp("trials") / "trials"
    pairs = combinations(read_data_directory(voices).utterances, 2)
    lines = [f"{a.id} {b.id} {'target' if a.speaker == b.speaker else 'nontarget'}\n" for a, b in pairs]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def scored(trained, voices, trials, tmp_path_factory):
    """The tiny experiment with scores of the untrained and the trained encoder."""
    exp = tmp_path_factory.mktemp("pictures") / "tiny"
    shutil.copytree(trained, exp)
    for flags in ([], ["--untrained"]):
        assert main(["embed", str(voices), str(exp), *flags]) == 0
        assert main(["score", str(voices), str(exp), "--trials", str(trials), *flags]) == 0
        assert main(["evaluate", str(voices), str(exp), "--trials", str(trials), *flags]) == 0
    return exp


@pytest.fixture(scope="session")
def pair(scored, voices, trials, tmp_path_factory):
    """The scored run, and one of another margin with the untrained encoder for a model, whose name would be markup."""
    second = tmp_path_factory.mktemp("second") / "<img src=x onerror=alert(1)>"
    shutil.copytree(scored, second, ignore=shutil.ignore_patterns("model", "scores", "embeddings", "metrics.json"))
    shutil.copytree(scored / "untrained", second / "model")
    config = second / "config.yaml"
    text = config.read_text()
    assert "\n  margin: 0.2\n" in text
    config.write_text(text.replace("\n  margin: 0.2\n", "\n  margin: 0.35\n"))
    assert main(["embed", str(voices), str(second)]) == 0
    for verb in ("score", "evaluate"):
        assert main([verb, str(voices), str(second), "--trials", str(trials)]) == 0
    return scored, second


@pytest.fixture(scope="session")
def browser():
    yield from started()
