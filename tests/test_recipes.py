"""The recipes' shell: options, overrides, and the set-up's choice (what they compute is run by .ci/run)."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spkver.config import load_config
from spkver.training.device import choose_dtype

ROOT = Path(__file__).resolve().parent.parent
BENCHMARK = ROOT / "recipes" / "benchmark"
# A benchmark has subjects instead of stages.
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*/run.sh") if path.parent != BENCHMARK)


def run(script, *words, **environment):
    return subprocess.run(
        ["bash", str(script), *words], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.parent.name)
def test_help_names_every_stage(script):
    done = run(script, "--help")
    assert done.returncode == 0
    for word in ("--stage", "--stop-stage", "--config", "--exp", "key.sub=value", "Stages: 0"):
        assert word in done.stdout


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.parent.name)
@pytest.mark.parametrize(
    "words, expected",
    [
        (["--stgae", "1"], "unknown option --stgae"),
        (["--stage"], "option --stage needs a value"),
        (["lr"], "'lr' is neither an option nor key.sub=value"),
    ],
)
def test_a_mistyped_option_is_refused_before_anything_runs(script, words, expected):
    done = run(script, *words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


def test_a_benchmark_knows_its_subjects_and_its_sizes():
    assert "Subjects: scoring (the default), heads" in run(BENCHMARK / "run.sh", "--help").stdout
    assert "no subject 'scorign'" in run(BENCHMARK / "run.sh", "scorign").stderr
    done = subprocess.run(
        [sys.executable, BENCHMARK / "scoring.py", "--one", "cosine_ours", "trails=3"], capture_output=True, text=True
    )
    assert "unknown key 'trails' (did you mean 'trials'?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_row_of_the_scoring_benchmark_measures_what_it_says(tmp_path):
    spec = importlib.util.spec_from_file_location("benchmark_scoring", BENCHMARK / "scoring.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = [
        "trials=3000",
        "utterances=100",
        "loop_trials=5",
        "plain_lines=200",
        "scores=4000",
        "plain_scores=2000",
        "cohort=40",
        "top_n=10",
        "plain_rows=30",
    ]
    sizes = load_config(BENCHMARK / "scoring.yaml", small, module.Sizes)
    for group in module.ROWS:
        assert group[0].__doc__.endswith("|spkver")
        assert len({function.__doc__.split("|")[0] for function in group}) == 1
        for function in group:
            n, measured = function(sizes, tmp_path)
            assert n > 0
            assert measured.seconds > 0


def shell(tmp_path, body):
    script = tmp_path / "recipe.sh"
    script.write_text(f"set -euo pipefail\n. {ROOT}/recipes/common.sh\nstage=1 stop_stage=3 exp=e\n{body}\n")
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=60, cwd=tmp_path)


def test_options_become_variables_and_overrides_are_kept_apart(tmp_path):
    done = shell(
        tmp_path,
        'read_options --stop-stage 2 a.b=1 --exp "my exp" c=[1, 2]\necho "$stage $stop_stage $exp"'.replace(
            "c=[1, 2]", "'c=[1, 2]'"
        )
        + '\nprintf "%s|" "${overrides[@]}"',
    )
    assert done.stdout == "1 2 my exp\na.b=1|c=[1, 2]|"


def test_stages_outside_the_wanted_ones_are_left_out(tmp_path):
    done = shell(tmp_path, "for n in 0 1 2 3 4; do if in_stage $n title$n; then echo ran $n; fi; done")
    assert [line for line in done.stdout.splitlines() if line.startswith("ran")] == ["ran 1", "ran 2", "ran 3"]


def test_a_failing_stage_stops_the_recipe(tmp_path):
    done = shell(tmp_path, "if in_stage 1 x; then false; fi\necho went on")
    assert done.returncode != 0
    assert "went on" not in done.stdout


def test_the_race_trains_by_the_clock_and_runs_no_row_twice(voices, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(voices, tmp_path / "corpus" / split)
    utts = [line.split()[0] for line in (voices / "utt2spk").read_text().splitlines()]
    pairs = [(a, b) for a in utts[:12] for b in utts[:12] if a < b]
    trials = "".join(f"{int(a[:2] == b[:2])} {a} {b}\n" for a, b in pairs)
    (tmp_path / "corpus" / "test" / "trials").write_text(trials)
    words = [f"corpus={tmp_path / 'corpus'}", f"out={tmp_path / 'out'}", "marks_minutes=[0.01,0.02]"]
    words += ["rows=[v3_small float32, v3_base float32]", "extraction_utterances=1", "batch_speakers=16"]
    command = [sys.executable, BENCHMARK / "training.py", *words]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0, first.stderr
    row = json.loads((tmp_path / "out" / "v3_small_float32.json").read_text())
    assert set(row["eer"]) == {"0.01", "0.02"}
    assert all(0 <= eer <= 1 for eer in row["eer"].values())
    speed = json.loads((tmp_path / "out" / "v3_small_speed.json").read_text())
    assert speed["parameters"] == pytest.approx(1.3e6, rel=0.02)
    # 50 frames and 3 layers: 50 x (12 d^2) x 3 alone are 37 M.
    assert 37e6 < speed["multiply_adds"] < 80e6
    assert "EER 0.02 min" in first.stdout
    assert (tmp_path / "out" / "eer_over_minutes.png").stat().st_size > 10_000
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.stdout == first.stdout
    assert "minutes, EER" not in again.stderr
    # On one core, so that the second row can only begin where the first has given its core back.
    few = [
        "taskset",
        "-c",
        str(min(os.sched_getaffinity(0))),
        *command,
        f"out={tmp_path / 'other'}",
        "batch_speakers=64",
    ]
    too_few = subprocess.run(few, capture_output=True, text=True, timeout=60)
    assert too_few.returncode == 1
    assert "there are 30 training speakers" in too_few.stderr
    assert "Traceback" not in too_few.stderr
    assert "v3_base_float32: begins" in too_few.stderr
    emulated = subprocess.run(
        [*command, f"out={tmp_path / 'emulated'}", "rows=[v3_small float32, v3_small bfloat16]"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert emulated.returncode == 0, emulated.stderr
    native = choose_dtype("auto", torch.device("cpu")) == torch.bfloat16
    assert (tmp_path / "emulated" / "v3_small_bfloat16.json").exists() == native
    assert ("rows in bfloat16 are left out" in emulated.stderr) != native
    wrong = subprocess.run([*command, "rows=[ecapa float32]"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("rows: 'ecapa float32' is not one of v3_small,")
