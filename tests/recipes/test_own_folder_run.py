"""recipes/own_folder from end to end, on made-up voices and with a tiny encoder.

The shell runs with a `spkver` that only notes its words; then each noted command is run in this process, in the
same order. That saves the start of thirty processes, and nothing of what they do.
"""

import json

from spkver.cli import main
from spkver.config import load_config
from spkver.config.shipped import CONFIGURATIONS

SMALL = [
    "data.crop_seconds=0.5", "data.workers=0", "model.channels=[8, 8]", "model.groups=4", "model.d_model=16",
    "model.n_layers=1", "model.n_heads=2", "model.feedforward=32", "training.device=cpu", "training.precision=float32",
    "training.threads=1", "scoring.bootstrap=20",
]  # fmt: skip
SHORT = [
    "training.epochs=1", "training.keep_last=1", "training.average_last=1", "margin_schedule.start_epoch=0",
    "margin_schedule.end_epoch=1", "lr_schedule.warmup_epochs=0.5", "optimizer.lr=0.01",
]  # fmt: skip


def test_from_a_folder_to_thresholds_and_a_page(noted, voices, monkeypatch, capsys):
    lmf = ["--lmf", "data.crop_seconds=0.6"]
    for word in SHORT:
        lmf += ["--lmf", word]
    options = ["--audio", voices, "--min-seconds", "0.5", "--far", "0.05"]
    done = noted.recipe("own_folder", *options, *SMALL, *SHORT, "head.margin=0.3", *lmf)
    assert done.returncode == 0, done.stderr
    (noted.root / "conf").symlink_to(CONFIGURATIONS)
    monkeypatch.chdir(noted.root)
    for program, *words in noted.calls():
        assert program == "spkver"
        assert main(words) == 0, words
    printed = capsys.readouterr().out
    assert "own_small.yaml, for 4 training speakers" in printed
    assert "own_folder_lmf, cosine+asnorm+calibration: accept from this score on" in printed
    assert "equal error" in printed and "--far 0.05" in printed
    assert printed.splitlines()[-1] == "exp/own_folder/report.html"
    exp = noted.root / "exp"
    assert (exp / "own_folder" / "report.html").stat().st_size > 10_000
    for name, untrained in (("own_folder", {"untrained"}), ("own_folder_lmf", set())):
        (systems,) = json.loads((exp / name / "metrics.json").read_text()).values()
        assert set(systems) == {"cosine", "cosine+asnorm", "cosine+asnorm+calibration"} | untrained
        assert all(len(record["eer_interval"]) == 2 for record in systems.values())
    # What is given belongs to the training; the fine-tune has a margin and crops of its own, and the same encoder.
    trained, tuned = (load_config(exp / name / "config.yaml") for name in ("own_folder", "own_folder_lmf"))
    assert (trained.head.margin, tuned.head.margin) == (0.3, 0.5)
    assert (trained.data.crop_seconds, tuned.data.crop_seconds) == (0.5, 0.6)
    assert (trained.model.d_model, tuned.model.d_model, tuned.training.threads) == (16, 16, 1)


def test_options_of_the_preparing_are_handed_on_and_others_are_left_to_it(noted):
    options = ["--speaker-level", "-1", "--seed", "5"]
    done = noted.recipe("own_folder", "--audio", "my audio", "--stop-stage", "0", *options)
    assert done.returncode == 0, done.stderr
    beside = ["--configurations", "conf"]
    assert noted.calls() == [
        ["spkver", "prepare", "folder", "data/own_folder", "--audio", "my audio", *beside, *options]
    ]


def test_without_recordings_a_line_asks_for_them(noted):
    done = noted.recipe("own_folder")
    assert done.returncode == 2
    assert "name your recordings by --audio DIR" in done.stderr
    assert done.stdout == "" and noted.calls() == []
