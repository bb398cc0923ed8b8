"""What an installed package holds beside its modules, and where it can be imported. tests/package.sh installs one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setuptools():
    tomllib = pytest.importorskip("tomllib", reason="came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_in_the_wheel(setuptools):
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("spkver/**/*.py")}
    assert {"spkver.conf", "spkver.general", "spkver.recipes", *found} == set(setuptools["packages"])


@pytest.mark.parametrize("package", ["spkver.conf", "spkver.general", "spkver.recipes"])
def test_every_configuration_recipe_and_file_of_the_general_model_is_in_the_wheel(setuptools, package):
    folder = ROOT / setuptools["package-dir"].get(package, package.replace(".", "/"))
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    kept = {ROOT / line for line in listed.stdout.splitlines() if "/results/" not in line}
    if not kept:
        pytest.skip("git does not know these files")
    taken = {path for pattern in setuptools["package-data"][package] for path in folder.glob(pattern)}
    assert kept <= taken


def test_modules_are_imported_where_the_system_lacks_what_only_unix_has(tmp_path):
    code = f"""
import os, signal, sys
sys.modules["fcntl"] = None
for name in ("SIGKILL", "SIGBUS", "SIGHUP"):
    delattr(signal, name)
for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "getuid", "sched_getaffinity"):
    delattr(os, name)
import spkver.cli, spkver.files, spkver.training.trainer, spkver.verification.speaker_store
with spkver.files.locked({str(tmp_path / "lock")!r}, "testing"):
    with spkver.files.atomic_write({str(tmp_path / "file")!r}) as file:
        file.write("whole")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert (tmp_path / "file").read_text() == "whole"
