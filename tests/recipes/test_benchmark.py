"""The recipes' stages, and the benchmarks (how a recipe starts: test_recipe_starts.py; what it computes: .ci/run)."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forked import run_script

from spkver.cli import main
from spkver.config import load_config
from spkver.data.audio_check import keep_usable
from spkver.data.directory import DataDirectory, Utterance, read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model
from spkver.heads import build_head
from spkver.models import build_encoder, device
from spkver.scoring.metrics import equal_error_rate

ROOT = Path(__file__).resolve().parents[2]
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


def test_a_benchmark_knows_its_subjects_and_its_sizes():
    assert "Subjects: scoring (the default), heads" in run(BENCHMARK / "run.sh", "--help").stdout
    assert "no subject 'scorign'" in run(BENCHMARK / "run.sh", "scorign").stderr
    done = subprocess.run(
        [sys.executable, BENCHMARK / "scoring.py", "--one", "cosine_ours", "trails=3"], capture_output=True, text=True
    )
    assert "unknown key 'trails' (did you mean 'trials'?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_kernels_benchmark_measures_every_row(tiny_config, capsys, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    from kernels import main as measure

    # Not the whole process: other tests' memory is theirs.
    monkeypatch.setattr("kernels.tune_malloc", lambda: None)
    words = [f"configurations=[{tiny_config}]", "precisions=[float32, bfloat16]", "compile=false", "rounds=1"]
    measure([*words, "speakers=10", "head_classes=100"])
    shown = capsys.readouterr().out
    for precision in ("float32", "bfloat16"):
        assert f"a training step of {tiny_config}, {precision}" in shown
        assert f"the front end's norms of {tiny_config}, {precision}" in shown
        assert f"the loss of 100 classes in chunks, {precision}" in shown
    assert f"extraction of 32 utterances by {tiny_config}, float32" in shown
    assert shown.count("without group_norm") == 3 and shown.count(" 1.00 x") >= 7
    measure([*words, "measure=[group_norm]"])
    assert capsys.readouterr().out.count("\n\n") == 1  # a table for each precision, and nothing else


def test_the_table_benchmark_measures_every_row(capsys, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    from table import main as measure

    words = ["utterances=2000", "speakers=64", "workers=1", "crop_seconds=0.1", "batches=[4, 8]"]
    measure([*words, "sampler_speakers=[64, 40_000]", "steps=2"])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in shown] == ["s"] * 4 + ["MiB"] + ["core"] * 4
    assert "a step of the sampler, 40,000 speakers, batch of 8" in shown[-1]


@pytest.mark.slow
def test_memory_does_not_grow_from_batch_to_batch(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    import batches
    from made_up import make_directory

    make_directory(tmp_path, 2000, 100)
    words = ["utterances=2000", "speakers=100", "workers=2", "n_batches=1200", "every=400"]
    sizes = load_config(BENCHMARK / "batches.yaml", words, batches.Sizes)
    (_, _), (_, before), (_, after) = batches.memory_over_batches(tmp_path, sizes)
    # 400 batches of 16 crops of 0.1 s are 40 MiB.
    assert after - before < 2


def test_two_machines_say_what_they_lack(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARK)
    from scale import two_machines

    def complaint():
        with pytest.raises(SpkverError) as raised, two_machines(1, 1):
            pass
        return str(raised.value)

    ip = tmp_path / "ip"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert complaint() == "two machines need ip, of iproute2, which is not installed"
    ip.write_text("#!/bin/sh\necho Operation not permitted >&2; exit 1\n")
    ip.chmod(0o755)
    assert re.fullmatch(
        r"two machines need rights for network namespaces: ip netns add \S+: Operation not permitted", complaint()
    )


ANSWER = """
import socket, sys
with socket.create_server((sys.argv[1], 5001)) as server:
    print("ready", flush=True)
    server.accept()[0].sendall(b"answer")
"""
ASK = """
import socket, sys, time
start = time.monotonic()
assert socket.create_connection((sys.argv[1], 5001)).recv(6) == b"answer"
print(time.monotonic() - start)
"""


def test_between_two_machines_a_packet_takes_its_time_each_way(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    from scale import two_machines

    with ExitStack() as stack:
        try:
            (first, second), what = stack.enter_context(two_machines(1.0, 30.0))
        except SpkverError as error:
            pytest.skip(str(error))
        if "no delay" in what:
            pytest.skip("needs a kernel with netem or /dev/net/tun")
        assert what.startswith("1 Gbit/s, 30 ms")
        answer = [*first.inside, sys.executable, "-c", ANSWER, first.address]
        ask = [*second.inside, sys.executable, "-c", ASK, first.address]
        with subprocess.Popen(answer, stdout=subprocess.PIPE) as answering:
            assert answering.stdout.readline() == b"ready\n"
            seconds = float(subprocess.run(ask, check=True, capture_output=True, timeout=60).stdout)
        assert answering.returncode == 0
    # Once there and back to connect, and half of that for the answer, which may be on its way already.
    assert 0.06 <= seconds < 5


@pytest.mark.slow
def test_the_scale_benchmark_measures_this_machine_and_two_made_of_it(tiny_config, capfd, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    from scale import main as measure

    words = [f"configuration={tiny_config}", "classes=20", "crops=4", "crop_seconds=0.5", "warm_up=1", "steps=2"]
    measure(words)
    shown = capfd.readouterr().out.splitlines()
    assert [line[:2] for line in shown[1:3]] == ["1 ", "2 "]
    assert float(shown[2].split()[-2]) > 0 and int(shown[2].split()[-1]) > 1
    assert shown[3].startswith(("not run: two machines need", "2, on two machines (no limit)"))
    assert shown[4].startswith(
        ("gradients of", "2, on two machines (1 Gbit/s, 1 ms", "2, on two machines (1 Gbit/s, no delay")
    )


def test_the_gpu_benchmark_measures_every_part_and_says_what_it_leaves_out(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    from gpu import main as measure

    words = ["device=cpu", f"out={tmp_path / 'gpu.json'}", "tests=false", "profile_steps=1", "extraction_utterances=3"]
    overrides = "batch.speakers=4, batch.utterances=1, data.workers=0, augment.noise.probability=0.5"
    words += [f"profiles=[{{configuration: {tiny_config}, overrides: [{overrides}]}}]", f"extraction=[{tiny_config}]"]
    words += ["speakers=6", "utterances=6", "utterance_seconds=1.0", "encoder_batch=2", "encoder_classes=7"]
    words += ["encoder_steps=1", "head_classes=[50]", "head_batch=4", "head_steps=1"]
    measure([*words, f"encoders=[{tiny_config}, no_such_configuration]"])
    table = json.loads((tmp_path / "gpu.json").read_text())
    assert table["about"]["torch"] == torch.__version__
    rows = {(row["part"], row["what"]): row for row in table["rows"]}
    assert [part for part, _ in rows] == ["training", "encoder", "encoder", "head", "head", "head", "extraction"]
    assert rows["encoder", f"{tiny_config}, batch 2"]["crops/s"] > 0
    assert "no_such_configuration" in rows["encoder", "no_such_configuration, batch 2"]["left_out"]
    assert rows["extraction", str(tiny_config)]["times real time"] > 0
    shown = capsys.readouterr().out
    assert "encoder forward" in shown and "spkver, in chunks, 50 x 3" in shown


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
            function(sizes, tmp_path)


def shell(tmp_path, body):
    script = tmp_path / "recipe.sh"
    head = "#!/bin/bash\n# --stop-stage N, --exp DIR\n\nset -euo pipefail"
    script.write_text(f"{head}\n. {ROOT}/recipes/common.sh\nstage=1 stop_stage=3 exp=e\n{body}\n")
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=60, cwd=ROOT)


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


@pytest.fixture
def benchmark(monkeypatch, capfd):
    """``benchmark(FILE, WORD ..)`` runs a benchmark in this process, and its rows in theirs; (status, out, err)."""
    monkeypatch.syspath_prepend(BENCHMARK)

    def forked(command: list[str], **_) -> SimpleNamespace:
        """Instead of `subprocess.run`: without the imports of each row's process."""
        _, _, cores, _, *words = command  # taskset -c CORES python SCRIPT WORD ..
        status, out = run_script(words, set(map(int, cores.split(","))))
        return SimpleNamespace(returncode=status, stdout=out)

    monkeypatch.setattr(importlib.import_module("rows"), "subprocess", SimpleNamespace(run=forked, PIPE=None))

    def run(file: Path, *words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(file), *map(str, words)])
        capfd.readouterr()
        try:
            importlib.import_module(file.stem).main(sys.argv[1:])
            return 0, *capfd.readouterr()
        except SpkverError as error:
            out, err = capfd.readouterr()
            return 1, out, f"{err}{error}\n"

    return run


def test_a_row_is_a_process_on_cores_of_its_own_and_kept(tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(BENCHMARK)
    rows = importlib.import_module("rows")
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "sys.exit('no such row') if sys.argv[1] == 'wrong' else print(json.dumps(\n"
        "    None if sys.argv[1] == 'none' else [sorted(os.sched_getaffinity(0)), sys.argv[1]]))\n"
    )
    monkeypatch.setattr(sys, "argv", [str(script)])
    cores = sorted(os.sched_getaffinity(0))
    found = rows.measure_side_by_side({tmp_path / name: [name] for name in ("a", "b", "none")}, 1)
    assert found[2] is None and [name for _, name in found[:2]] == ["a", "b"]
    assert all(len(own) == 1 and own[0] in cores for own, _ in found[:2])
    assert json.loads((tmp_path / "a").read_text()) == found[0]
    assert not (tmp_path / "none").exists()
    capfd.readouterr()
    assert rows.measure(tmp_path / "a", ["wrong"], cores) == found[0]
    assert capfd.readouterr().err == ""
    with pytest.raises(SpkverError, match="c stopped with an error, which stands above"):
        rows.measure(tmp_path / "c", ["wrong"], cores)
    assert not (tmp_path / "c").exists()


# An encoder that costs next to nothing, as words of a YAML list.
SMALL = ["'model.channels=[4,4]'", "model.groups=2", "model.d_model=16", "model.n_layers=1", "model.n_heads=2"]
SMALL += ["model.feedforward=32", "model.embed_dim=16", "batch.speakers=8", "data.crop_seconds=0.5", "data.workers=0"]
SMALL += ["training.precision=float32", "'scoring.variants=[[1.0,1.0]]'"]


@pytest.mark.slow
def test_the_race_trains_by_the_clock_and_runs_no_row_twice(voices, tmp_path, benchmark, monkeypatch):
    for split in ("train", "test"):
        shutil.copytree(voices, tmp_path / "corpus" / split)
    utts = [line.split()[0] for line in (voices / "utt2spk").read_text().splitlines()]
    pairs = [(a, b) for a in utts[:12] for b in utts[:12] if a < b]
    trials = "".join(f"{int(a[:2] == b[:2])} {a} {b}\n" for a, b in pairs)
    (tmp_path / "corpus" / "test" / "trials").write_text(trials)
    words = [f"corpus={tmp_path / 'corpus'}", f"out={tmp_path / 'out'}", "marks_minutes=[0.01,0.02]", "epochs=2"]
    words += ["rows=[v3_small float32, v3_base float32]", "extraction_utterances=1", "batch_speakers=16"]
    race = BENCHMARK / "training.py"
    status, first, remarks = benchmark(race, *words)
    assert status == 0, remarks
    row = json.loads((tmp_path / "out" / "v3_small_float32.json").read_text())
    assert set(row["eer"]) == {"0.01", "0.02"}
    speed = json.loads((tmp_path / "out" / "v3_small_speed.json").read_text())
    assert speed["parameters"] == pytest.approx(1.3e6, rel=0.02)
    # 50 frames and 3 layers: 50 x (12 d^2) x 3 alone are 37 M.
    assert 37e6 < speed["multiply_adds"] < 80e6
    assert "EER 0.02 min" in first
    assert (tmp_path / "out" / "eer_over_minutes.png").stat().st_size > 10_000
    _, again, remarks = benchmark(race, *words)
    assert again == first
    assert "begins" not in remarks
    # As on a machine that would have to emulate bfloat16, whatever this one does.
    with monkeypatch.context() as patch:
        patch.setattr(device, "_has_bfloat16", lambda _: False)
        status, _, remarks = benchmark(race, *words, "rows=[v3_small float32, v3_small bfloat16]")
    assert status == 0
    assert not (tmp_path / "out" / "v3_small_bfloat16.json").exists()
    assert "rows in bfloat16 are left out" in remarks
    # On one core, so that the second row can only begin where the first has given its core back.
    core = min(os.sched_getaffinity(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {core})
        status, _, remarks = benchmark(race, *words, f"out={tmp_path / 'other'}", "batch_speakers=64")
    assert status == 1
    assert "there are 30 training speakers" in remarks
    assert "Traceback" not in remarks
    assert "v3_base_float32: begins" in remarks
    status, _, remarks = benchmark(race, *words, "rows=[ecapa float32]")
    assert status == 1
    assert remarks.startswith("rows: 'ecapa float32' is not one of v3_small,")


def test_a_comparison_holds_out_other_speakers_for_each_seed_and_runs_nothing_twice(voices, tmp_path, benchmark):
    words = [f"corpus={voices}", f"out={tmp_path / 'out'}", "steps=3", "seeds=[1,2]", "held_out_speakers=6"]
    words += ["variants={mean: [model.pooling=mean]}", "schedule_free=[mean]", "rows=[as it is, mean]"]
    words += [f"common=[{','.join(SMALL)}]"]
    variants = BENCHMARK / "variants.py"
    status, first, remarks = benchmark(variants, *words)
    assert status == 0, remarks
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert sorted(kept) == ["as_it_is_seed_1", "as_it_is_seed_2", "mean_seed_1", "mean_seed_2"]
    assert all(len(row["held_out"]) == 6 and row["seconds"] > 0 for row in kept.values())
    assert kept["mean_seed_1"]["held_out"] == kept["as_it_is_seed_1"]["held_out"] != kept["mean_seed_2"]["held_out"]
    assert all(
        {"eer", "area_above", "by_speaker"} == set(row[weights])
        for row in kept.values()
        for weights in ("last", "moving")
    )
    mean = np.mean([kept[f"mean_seed_{seed}"]["averaged"]["eer"] for seed in (1, 2)])
    assert f"{mean:.2%}" in first.splitlines()[2]
    _, again, remarks = benchmark(variants, *words)
    assert again == first
    assert "begins" not in remarks
    status, _, other = benchmark(variants, *words, "steps=4")
    assert status == 1
    one = tmp_path / "out" / "as_it_is_seed_1.json"
    assert other == f"{one}: measured with other settings; remove it, or choose another out=FOLDER\n"
    other = benchmark(variants, *words, "common=[model.d_model=16]")[2]
    assert "as_it_is_seed_1.json: measured with other settings" in other
    assert [kept[f"{name}_seed_1"]["settings"]["schedule_free"] for name in ("as_it_is", "mean")] == [False, True]
    wrong = benchmark(variants, *words, "schedule_free=[mode]")[2]
    assert wrong.startswith("schedule_free: 'mode' is not one of the variants")
    wrong = benchmark(variants, *words, "rows=[as it was]")[2]
    assert wrong.startswith("rows: 'as it was' is not one of the variants as it is, no average spectrum,")
    wrong = benchmark(variants, *words, "variants={mean: [model.poling=mean]}")[2]
    assert "unknown key 'model.poling' (did you mean 'model.pooling'?)" in wrong


def test_a_comparison_of_fine_tunes_starts_from_a_model_that_was_not_trained_on_the_speakers_held_out(
    voices, tmp_path, benchmark
):
    small = [word.strip("'") for word in SMALL]
    words = [*small, "data.held_out_speakers=6", "training.epochs=2", "lr_schedule.warmup_epochs=0"]
    exp = tmp_path / "exp_1"
    assert main(["train", str(ROOT / "conf" / "base.yaml"), "--data", str(voices), "--exp", str(exp), *words]) == 0
    assert main(["average", str(exp)]) == 0
    settings = [f"corpus={voices}", f"out={tmp_path / 'out'}", f"config={ROOT / 'conf' / 'base.yaml'}", "steps=2"]
    settings += [f"common=[{','.join(SMALL)}]", f"init={tmp_path}/exp_{{seed}}/model", "held_out_speakers=6"]
    settings += ["variants={as it is: []}", "rows=[as it is]", "seeds=[1]"]
    command = [BENCHMARK / "variants.py", BENCHMARK / "fine_tunes.yaml", *settings]
    status, _, remarks = benchmark(*command)
    assert status == 0, remarks
    kept = json.loads((tmp_path / "out" / "as_it_is_seed_1.json").read_text())
    heard = (exp / "model" / "speakers").read_text().split()
    assert sorted([*heard, *kept["held_out"]]) == sorted(read_data_directory(voices).speakers)
    shutil.copytree(exp, tmp_path / "exp_2")
    status, _, wrong = benchmark(*command, "seeds=[2]")
    assert status == 1
    assert f"{tmp_path / 'exp_2' / 'model'}: was trained on" in wrong
    assert "train it with seed=2 data.held_out_speakers=6" in wrong
    assert "Traceback" not in wrong
    # After a step of next to no length the encoder is still the model.
    train_on = importlib.import_module("training_loop").train_on
    still = [*small, "optimizer.lr=1e-12", "lr_schedule.final_lr=1e-12"]
    config = load_config(ROOT / "conf" / "base.yaml", still)
    training = keep_usable(read_data_directory(voices), config.data.sample_rate).subset(speakers=heard)
    encoder = build_encoder(config.model, config.features.n_mels)
    next(train_on(encoder, config, training, lambda _: 0.5, init=exp / "model"))
    model = dict(load_model(exp / "model").encoder.named_parameters())
    assert model.keys() == dict(encoder.named_parameters()).keys()
    for name, weight in encoder.named_parameters():
        torch.testing.assert_close(weight.detach(), model[name].detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["variants", "fine_tunes"])
def test_every_variant_is_a_configuration_of_its_own_that_embeds(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    variants = importlib.import_module("variants")
    before = load_config(BENCHMARK / f"{name}.yaml", [], variants.Comparison)
    words = [f"config={ROOT / before.config}"]
    comparison = load_config(BENCHMARK / f"{name}.yaml", words, variants.Comparison)
    seen = []
    for variant in comparison.variants:
        config = variants.config_of(variant, 1, comparison)
        build_head(config.head, config.model.embed_dim, 8)
        encoder = build_encoder(config.model, config.features.n_mels).eval()
        with torch.no_grad():
            n_mels = config.features.n_mels
            assert encoder(torch.randn(2, 100, n_mels), average=torch.randn(2, n_mels)).shape == (2, 192)
        assert config not in seen, f"{variant} is another one under a new name"
        seen.append(config)


def test_a_comparisons_differences_are_taken_seed_by_seed_and_speaker_by_speaker(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    variants = importlib.import_module("variants")

    def rows(*eers):
        # Two speakers a seed, in no order; the second has twice the EER of the first.
        return [
            {"eer": eer, "area_above": eer / 5, "seconds": 90.0, "by_speaker": {"b": eer * 4 / 3, "a": eer * 2 / 3}}
            for eer in eers
        ]

    lines = variants.table({"as it is": rows(0.04, 0.08, 0.06), "other": rows(0.05, 0.09, 0.10)}).splitlines()
    assert lines[1].split() == ["as", "it", "is", "6.00%", "6.00%", "0.0120", "1.5"]
    # Differences 1, 1 and 4 %: mean 2, standard deviation of 3 ** 0.5 over the root of 3.
    assert lines[2].split()[1:5] == ["8.00%", "+2.00", "+-", "1.00"]
    # Of the six speakers 2/3, 4/3, 2/3, 4/3, 8/3 and 16/3 %.
    changes = np.array([2, 4, 2, 4, 8, 16]) / 3
    assert lines[2].split()[5:9] == ["8.00%", "+2.00", "+-", f"{changes.std(ddof=1) / 6**0.5:.2f}"]
    assert lines[2].split()[9:13] == ["0.0160", "+0.0040", "+-", "0.0020"]


def test_a_comparisons_speakers_have_a_threshold_each(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    variants = importlib.import_module("variants")
    # Ann's scores lie higher than all others', Cid has no target trial; Bob's one nontarget beats one of two targets.
    trials = [("ann", "ann", 0.9, 1), ("ann", "bob", 0.7, 0), ("bob", "bob", 0.6, 1), ("bob", "bob", 0.8, 1)]
    enroll, test, scores, labels = map(np.array, zip(*trials, ("cid", "ann", 0.5, 0)))
    eers = variants.eer_by_speaker(scores, labels, enroll, test)
    assert eers.keys() == {"ann", "bob"}
    assert eers["ann"] == 0
    assert eers["bob"] == pytest.approx(equal_error_rate(np.array([0.7, 0.6, 0.8]), np.array([0, 1, 1]))[0])
    assert eers["bob"] > 0


def test_a_comparisons_trials_pair_speakers_of_one_gender_and_one_side_of_18(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARK)
    variants = importlib.import_module("variants")
    speakers = {"anna": ("f", 9), "bea": ("f", 17), "cleo": ("f", 30), "dan": ("m", 12), "eric": ("m", 8)}
    (tmp_path / "spk2age").write_text("".join(f"{speaker} {age}\n" for speaker, (_, age) in speakers.items()))
    utterances = [Utterance(f"{speaker}{n}", Path("a.wav"), speaker) for speaker in speakers for n in range(2)]
    directory = DataDirectory(tmp_path, utterances, {speaker: gender for speaker, (gender, _) in speakers.items()})

    def pairs(ages):
        comparison = load_config(BENCHMARK / "variants.yaml", [f"ages={ages}"], variants.Comparison)
        enroll, test, labels = variants.trials_of(directory, comparison)
        found = [{utterances[a].speaker, utterances[b].speaker} for a, b in zip(enroll, test)]
        assert [len(pair) == 1 for pair in found] == labels.astype(bool).tolist()
        return {frozenset(pair) for pair in found if len(pair) == 2}

    young_girls, boys = frozenset(["anna", "bea"]), frozenset(["dan", "eric"])
    assert pairs(tmp_path / "spk2age") == {young_girls, boys}
    assert pairs("null") == {young_girls, frozenset(["anna", "cleo"]), frozenset(["bea", "cleo"]), boys}
    (tmp_path / "spk2age").write_text("anna 9\n")
    with pytest.raises(SpkverError, match="spk2age: no age of speaker 'bea'"):
        pairs(tmp_path / "spk2age")


def test_a_comparison_averages_the_weights_of_the_last_epochs(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    variants = importlib.import_module("variants")
    # Weights that are the number of the step: three epochs of four steps, of which the last two are averaged.
    encoder = torch.nn.Linear(1, 1, bias=False)

    def steps(encoder, *_):
        for n_steps in range(1, 100):
            torch.nn.init.constant_(encoder.weight, n_steps)
            yield n_steps, 2.0 * n_steps, {"loss": 0.0}

    monkeypatch.setattr(variants, "train_on", steps)
    words = ["steps=12", "moving_average=0.5"]
    comparison = load_config(BENCHMARK / "variants.yaml", words, variants.Comparison)
    config = load_config(ROOT / "conf" / "base.yaml", ["training.epochs=3", "training.average_last=2"])
    weights, seconds = variants.train(encoder, config, None, comparison, "")
    assert {name: state["weight"].item() for name, state in weights.items()} == pytest.approx(
        {"averaged": (8 + 12) / 2, "last": 12, "moving": sum(0.5 ** (13 - n) * n for n in range(2, 13)) + 0.5**11}
    )
    assert seconds == 24


def test_schedule_free_is_the_recursion_of_its_paper_and_shows_the_mean(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK)
    schedule_free = importlib.import_module("schedule_free")
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = schedule_free.ScheduleFree(torch.optim.SGD([weight], lr=1.0), mean_share=0.9)
    curvature = torch.tensor([1.0, 3.0])
    z = x = torch.tensor([1.0, -2.0])
    squares = 0.0
    for lr in (0.0, 0.1, 0.2, 0.2, 0.2):
        y = 0.1 * z + 0.9 * x
        torch.testing.assert_close(weight.detach(), y)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        (curvature * weight.square() / 2).sum().backward()
        optimizer.step()
        squares += lr**2
        z = z - lr * curvature * y
        x = x + (lr**2 / squares if lr else 0.0) * (z - x)
        with optimizer.mean_in_place():
            torch.testing.assert_close(weight.detach(), x)
    torch.testing.assert_close(weight.detach(), 0.1 * z + 0.9 * x)
