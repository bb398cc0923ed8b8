"""``spkver completion``: a script that completes verbs, options and files."""

import shutil
import subprocess
import sys

import pytest

pytest.importorskip("shtab", reason="needs the writer of scripts: pip install shtab")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "words, expected",
    [
        (["spkver", "eva"], ["evaluate"]),
        (["spkver", "prepare", "libri"], ["librispeech"]),
        (["spkver", "verify", "--thr"], ["--threshold"]),
        (["spkver", "plot", "det", "exp", "--format", "p"], ["png", "pdf"]),
        (["spkver", "train", "ow"], ["own.yaml"]),
    ],
)
def test_bash_completes_verbs_options_values_and_files(run, tmp_path, words, expected):
    status, script, _ = run("completion", "bash")
    assert status == 0
    (tmp_path / "own.yaml").touch()
    (tmp_path / "script").write_text(
        f"{script}\nCOMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}\n"
        '_shtab_spkver spkver "${COMP_WORDS[-1]}"\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "script"], capture_output=True, text=True, cwd=tmp_path)
    assert sorted(done.stdout.split()) == sorted(expected)


def test_without_its_package_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, _, err = run("completion", "zsh")
    assert (status, err.count("\n")) == (1, 1)
    assert "pip install shtab" in err
