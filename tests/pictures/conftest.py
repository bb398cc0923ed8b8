"""A finished tiny run with scores, for the pictures."""

import shutil
from itertools import combinations

import pytest

from spkver.cli import main
from spkver.data.directory import read_data_directory


@pytest.fixture(scope="session")
def scored(trained, voices, tmp_path_factory):
    """The tiny experiment with scores of the untrained and the trained encoder."""
    exp = tmp_path_factory.mktemp("pictures") / "tiny"
    shutil.copytree(trained, exp)
    trials = tmp_path_factory.mktemp("trials") / "trials"
    pairs = combinations(read_data_directory(voices).utterances, 2)
    lines = [f"{a.id} {b.id} {'target' if a.speaker == b.speaker else 'nontarget'}\n" for a, b in pairs]
    trials.write_text("".join(lines))
    for flags in ([], ["--untrained"]):
        assert main(["embed", str(voices), str(exp), *flags]) == 0
        assert main(["score", str(voices), str(exp), "--trials", str(trials), *flags]) == 0
        assert main(["evaluate", str(voices), str(exp), "--trials", str(trials), *flags]) == 0
    return exp
