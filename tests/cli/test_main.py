"""The ``spkver`` command: every verb from a run to its table, and a user's mistakes in one line."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from spkver.cli import main
from spkver.cli.examples import GUIDE
from spkver.data.trial_making import make_trials
from spkver.data.trials import write_trials
from spkver.embedding.folder import read_embeddings
from spkver.scoring.metrics import equal_error_rate


@pytest.fixture
def data(voices, tmp_path):
    folder = tmp_path / "test"
    shutil.copytree(voices, folder)
    utts = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
    write_trials(folder / "trials", make_trials(utts, [utt.split("-")[0] for utt in utts], seed=1))
    return folder


@pytest.fixture
def exp(trained, tmp_path):
    """A copy that a test may write into."""
    return shutil.copytree(trained, tmp_path / "exp")


def test_from_a_trained_model_to_the_table(run, data, exp):
    for system in ([], ["--untrained"]):
        status, out, _ = run("embed", data, exp, *system)
        assert status == 0
        assert out.startswith("60 embeddings (")
        status, out, _ = run("score", data, exp, *system)
        assert (status, out.split(" -> ")[0]) == (0, "1770 scores")
        status, out, _ = run("evaluate", data, exp, *system)
        assert status == 0
        assert "150 target, 1620 nontarget trials" in out

    metrics = json.loads((exp / "metrics.json").read_text())["test/trials"]
    assert set(metrics) == {"cosine", "untrained"}
    record = metrics["cosine"]
    assert (record["targets"], record["nontargets"]) == (150, 1620)
    assert record["eer_interval"][0] <= record["eer"] <= record["eer_interval"][1]

    embeddings, utts = read_embeddings(exp / "embeddings" / "test")
    speakers = np.array([utt.split("-")[0] for utt in utts])
    rows, columns = np.triu_indices(60, 1)
    scores = (embeddings @ embeddings.T)[rows, columns]
    eer, _ = equal_error_rate(scores, (speakers[rows] == speakers[columns]).astype(int))
    assert record["eer"] == pytest.approx(eer, abs=2e-3)

    status, out, _ = run("results", exp)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "test/trials: 150 target, 1620 nontarget trials"
    assert lines[2].startswith("untrained")
    assert lines[3].startswith("cosine")
    assert f"{100 * record['eer']:.2f} %" in lines[3]


@pytest.fixture(scope="module")
def scored(trained, voices, tmp_path_factory):
    """A data directory and an experiment with its scores."""
    folder = tmp_path_factory.mktemp("scored")
    data, exp = shutil.copytree(voices, folder / "test"), shutil.copytree(trained, folder / "tiny")
    utts = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    write_trials(data / "trials", make_trials(utts, [utt.split("-")[0] for utt in utts], seed=1))
    for words in (["embed"], ["score"]):
        assert main([*words, str(data), str(exp)]) == 0
    return data, exp


def test_json_has_the_figures_of_the_text(run, scored):
    data, exp = scored
    few = "scoring.bootstrap=20"
    text = run("evaluate", data, exp, "--by", "gender", few)[1]
    evaluated = json.loads(run("evaluate", data, exp, "--by", "gender", few, "--json")[1])
    kept = json.loads((exp / "metrics.json").read_text())["test/trials"]["cosine"]
    assert evaluated["figures"] == kept
    assert (evaluated["trials"], evaluated["system"], evaluated["experiment"]) == ("test/trials", "cosine", str(exp))
    assert f"{100 * kept['eer']:.2f} %" in text
    assert set(evaluated["by"]["gender"]) == {"f", "m", "mixed"}

    found = json.loads(run("results", exp, "--json")[1])["tables"]
    assert [(table["trials"], list(table["systems"])) for table in found] == [("test/trials", ["cosine"])]
    assert found[0]["systems"]["cosine"]["eer"] == kept["eer"]

    scores = exp / "scores" / "test" / "trials-cosine"
    foreign = json.loads(run("evaluate", "--scores", scores, "--trials", data / "trials", "--json")[1])
    assert foreign["figures"]["eer"] == kept["eer"] and "1770" in foreign["matched"]

    compared = json.loads(run("compare", data, exp, exp, few, "--json")[1])
    assert compared["figures"]["eer"]["a"] == kept["eer"] and compared["figures"]["eer"]["difference"] == 0
    assert compared["b"] == {"experiment": str(exp), "system": "cosine"} and compared["speakers"] == 10

    status, out, err = run("threshold", data, exp, "--far", "0.1", "--save", "--json")
    at_equal_error, at_rate = json.loads(out)["thresholds"]
    assert status == 0 and "saved" in err
    assert at_equal_error["false_acceptance_rate"] == at_equal_error["false_rejection_rate"] == kept["eer"]
    assert at_rate["at"] == "--far 0.1" and at_rate["false_acceptance_rate"] <= 0.1


def test_alone_it_prints_a_short_guide(run):
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out == GUIDE and out.count("\n") < 20


def test_a_system_that_is_none_gets_the_nearest(run, scored):
    for word, near in (("cosin", "cosine"), ("cosine+asnrom", "cosine+asnorm"), ("pdla", "plda")):
        assert f"no system '{word}' (did you mean '{near}'?)" in run("score", *scored, "--system", word)[2]


def test_a_model_is_found_in_its_experiment(run, voices, exp, tmp_path):
    a = voices / "wav" / "v0" / "0.wav"
    inside, outside = (run("verify", a, a, "--model", folder) for folder in (exp / "model", exp))
    assert inside[0] == 0 and inside == outside
    assert run("enroll", "anna", a, "--store", tmp_path / "people", "--model", exp)[0] == 0
    assert run("identify", a, "--store", tmp_path / "people", "--model", exp)[1].startswith(f"{a}: anna ")


def test_words_in_the_wrong_place_say_what_belongs_there(run, voices, exp, tmp_path):
    a = voices / "wav" / "v0" / "0.wav"
    store = ("--store", tmp_path / "people", "--model", exp)
    for words, message in (
        (["enroll", a, a, *store], f"enroll: {a} is a file; the speaker's name comes before the recordings"),
        (["verify", a, a.parent, "--model", exp], f"{a.parent}: a folder, expected an audio file; name files in it"),
        (["embed", a, exp], f"{a}: a file, expected a data directory (wav.scp, utt2spk); `spkver prepare folder DATA"),
        (["embed", a.parent, exp], "it has no wav.scp; `spkver prepare folder DATA --audio RECORDINGS` makes one"),
    ):
        status, _, err = run(*words)
        assert (status, err.count("\n")) == (1, 1), err
        assert message in err
    assert not (tmp_path / "people").exists()


def test_verify_says_same_or_different_and_has_the_status_for_it(run, voices, exp):
    a, b = voices / "wav" / "v0" / "0.wav", voices / "wav" / "v1" / "0.wav"
    status, out, _ = run("verify", a, a, "--model", exp / "model")
    assert status == 0
    assert out.startswith("same speaker   score 1.000   threshold ")
    status, out, _ = run("verify", a, b, "--model", exp / "model", "--threshold", "2")
    assert status == 3
    assert out.startswith("different speakers   score ")
    assert out.endswith("threshold 2.000: as it was given\n")


def test_config_prints_what_a_run_would_use(run, tiny_config, tmp_path):
    status, out, _ = run("config", tiny_config, "seed=7")
    assert status == 0
    (tmp_path / "printed.yaml").write_text(out)
    assert "seed: 7" in out
    assert run("config", tmp_path / "printed.yaml")[1] == out


def test_an_unknown_key_is_one_line_and_status_1(run, tiny_config):
    status, out, err = run("train", tiny_config, "optimiser.lr=0.01")
    assert (status, out) == (1, "")
    assert err == f"{tiny_config}: unknown key 'optimiser' (did you mean 'optimizer'?)\n"


def test_a_trial_that_names_no_utterance_is_named_with_its_line(run, data, exp):
    run("embed", data, exp)
    with open(data / "trials", "a") as file:
        file.write("v0-0 spk3/utt9 target\n")
    status, _, err = run("score", data, exp)
    assert status == 1
    assert err == f"{data}/trials:1771: 'spk3/utt9' is in no line of {data}/wav.scp\n"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["train", "{config}"], "--data"),
        (["train", "{config}", "--data", "{tmp}"], "wav.scp"),
        (["average", "{tmp}"], "holds no run"),
        (["embed", "{data}", "{tmp}"], "is no model folder"),
        (["score", "{data}", "{tmp}"], "embeddings"),
        (["evaluate", "{data}", "{tmp}"], "scores"),
        (["results", "{tmp}"], "there are no metrics yet"),
        (["verify", "a.wav", "b.wav", "--model", "{tmp}"], "is no model folder"),
        (["config", "{tmp}/none.yaml"], "cannot be read"),
    ],
)
def test_each_verb_tells_a_mistake_in_one_line(run, words, expected, tiny_config, data, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, _, err = run(*(word.format(config=tiny_config, data=data, tmp=empty) for word in words))
    assert status == 1
    assert expected in err
    assert err.count("\n") == 1
    assert list(empty.iterdir()) == []


def test_help_does_not_wait_for_torch():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spkver.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for verb in ("prepare", "train", "average", "embed", "score", "evaluate", "results", "verify", "config"):
        assert f" {verb} " in done.stdout
    assert " torch" not in done.stderr
    assert time.monotonic() - start < 10


def test_results_name_an_untrained_encoder_that_runs_share_once(tmp_path, capsys):
    record = {"eer": 0.2, "threshold": 0.9, "targets": 10, "nontargets": 20}
    better = {**record, "eer": 0.05}
    for name, untrained in (("a", record), ("b", record), ("c", {**record, "eer": 0.3})):
        (tmp_path / name).mkdir()
        metrics = {"test/trials": {"untrained": untrained, "cosine": better}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    assert main(["results", *(str(tmp_path / name) for name in "abc")]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("  ")[0] for line in lines] == [
        "a, untrained",
        "c, untrained",
        "a, cosine",
        "b, cosine",
        "c, cosine",
    ]


def test_a_name_that_the_output_cannot_write_is_escaped_as_json_writes_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("PYTHONUTF8", "0")
    folder = tmp_path / os.fsdecode("é李\U0001f600".encode() + b"\xe9")
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({os.fsdecode(b"\xe9/trials"): {"cosine": {"eer": 0.5}}}))
    done = subprocess.run([sys.executable, "-m", "spkver.cli", "results", folder, tmp_path], capture_output=True)
    assert done.returncode == 1
    done = subprocess.run([sys.executable, "-m", "spkver.cli", "results", folder], capture_output=True)
    assert done.stdout.splitlines()[0].startswith(b"\\udce9/trials")
