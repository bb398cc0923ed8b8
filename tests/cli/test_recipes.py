"""`spkver recipe` copies what a recipe needs to run from another folder."""

import os
import subprocess
import sys
from pathlib import Path

from spkver.cli import main
from spkver.config.shipped import CONFIGURATIONS, RECIPES


def test_a_copied_recipe_is_whole_and_can_be_run(tmp_path):
    folder = tmp_path / "mine"
    assert main(["recipe", "own_folder", str(folder)]) == 0
    assert {path.name for path in (folder / "conf").iterdir()} == {path.name for path in CONFIGURATIONS.glob("*.yaml")}
    assert (folder / "recipes" / "common.sh").read_bytes() == (RECIPES / "common.sh").read_bytes()
    run = folder / "recipes" / "own_folder" / "run.sh"
    assert run.read_bytes() == (RECIPES / "own_folder" / "run.sh").read_bytes()
    # It begins where it stands, with the spkver that is installed.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(RECIPES.parent)}
    done = subprocess.run([run, "--audio", "nothing"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"stage 0     the recordings in {tmp_path}/nothing\n"
    assert "nothing" in done.stderr and "Traceback" not in done.stderr


def test_what_a_stop_left_of_a_copy_is_made_anew(tmp_path):
    half = tmp_path / "recipes" / ".mini.unfinished"
    half.mkdir(parents=True)
    (half / "of_the_first_try").write_text("")
    assert main(["recipe", "mini", str(tmp_path)]) == 0
    assert not half.exists() and not (tmp_path / "recipes" / "mini" / "of_the_first_try").exists()
    assert (tmp_path / "recipes" / "mini" / "run.sh").stat().st_mode & 0o111


def test_edited_configurations_stay_and_a_copied_recipe_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mini.yaml").write_text("seed: 3\n")
    assert main(["recipe", "mini", str(tmp_path)]) == 0
    assert (tmp_path / "conf" / "mini.yaml").read_text() == "seed: 3\n"
    assert main(["recipe", "mini", str(tmp_path)]) == 1
    assert "recipes/mini: is there already" in capsys.readouterr().err


def test_the_recipes_are_listed_and_another_name_is_refused_with_them(tmp_path, capsys):
    assert main(["recipe", "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert names == sorted(path.parent.name for path in RECIPES.glob("*/run.sh")) and "own_folder" in names
    assert main(["recipe", "mine", str(tmp_path)]) == 1
    assert f"no recipe 'mine'; there are {', '.join(names)}" in capsys.readouterr().err
    assert main(["recipe", "mini"]) == 1
    assert "name the folder" in capsys.readouterr().err
