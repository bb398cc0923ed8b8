"""The report page: what is in it."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import soundfile
from scipy.stats import norm

from spkver.cli import main
from spkver.config import load_run
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.pictures import Run
from spkver.pictures.margin_page import MARGINS, margin_tables
from spkver.pictures.page import packed, write_page
from spkver.pictures.report import _in_turns, write_report
from spkver.scoring.metrics import equal_error_rate


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="session")
def page(scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", str(scored), "--audio", "--out", str(path)]) == 0
    return path


def test_the_page_needs_no_network(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"'](?!data:)", text)
    assert "{{" not in text.split("<script>")[0]


def test_the_page_holds_the_figures_of_the_run(page, scored):
    data = data_of(page)
    recorded = next(iter(json.loads((scored / "metrics.json").read_text()).values()))
    systems = {system["name"]: system for system in data["systems"]}
    assert {name: system["record"] for name, system in systems.items()} == {
        name: {key: value for key, value in record.items() if key != "made_of"} for name, record in recorded.items()
    }
    scores, labels = Run(scored).scores()["cosine"]
    eer, _ = equal_error_rate(scores, labels)
    name, x, y = systems["cosine"]["curves"]["points"][0]
    assert name == f"EER {eer:.2%}"
    assert (x, y) == pytest.approx((norm.ppf(eer), norm.ppf(eer)), abs=1e-4)
    (run,) = data["runs"]
    assert sum(part["n"] * part["times"] for part in run["architecture"]["rows"]) == run["architecture"]["total"]
    assert data["systems"][data["best"]["system"]]["name"] == "cosine"
    assert data["best"]["of"] == 1


def test_the_page_and_the_picture_have_the_same_effective_rank(page, scored):
    (run,) = data_of(page)["runs"]
    drawn = {line.get_label(): line.get_ydata() for line in Run(scored).eigenvalues().axes[1].lines}
    assert set(drawn) == {"training speakers", "held-out speakers"}
    for kind, ranks in drawn.items():
        assert run["development"][f"Effective rank, {kind}"]["y"] == pytest.approx(list(ranks), rel=1e-4)


def test_the_head_says_what_was_trained_on_what(page, scored, voices):
    (run,) = data_of(page)["runs"]
    facts = dict(run["facts"])
    directory = read_data_directory(voices)
    held_out = Run(scored).config.data.held_out_speakers
    n_trained = len(directory.speakers) - held_out
    assert f"{n_trained} speakers (and {held_out} held out), {len(directory.utterances)} utt" in facts["trained on"]
    assert f"{run['architecture']['total']:,} parameters" in facts["encoder"]
    assert facts["training"].startswith("3 epochs in ")
    assert {"machine", "command", "head"} <= set(facts)


def test_a_training_took_what_its_last_epoch_has_on_the_clock(scored, tmp_path):
    run = Run(scored)
    run.epochs["seconds"] = np.array([60.0, 130.0, 241.0])  # since the training's beginning, pauses left out
    path, _ = write_report(tmp_path / "r.html", [run])
    assert dict(data_of(path)["runs"][0]["facts"])["training"] == "3 epochs in 4 min"


def test_a_threshold_counts_the_errors_at_it(page, scored):
    (curves,) = [s["curves"] for s in data_of(page)["systems"] if s["name"] == "cosine"]
    scores, labels = Run(scored).scores()["cosine"]
    accepted, refused = unpacked(curves["accepted"], "<u4"), unpacked(curves["refused"], "<u4")
    for step in (0, 250, curves["equal_error_step"], 777, 1000):
        threshold = np.linspace(scores.min(), scores.max(), 1001)[step]
        assert accepted[step] == np.sum((scores >= threshold) & (labels == 0))
        assert refused[step] == np.sum((scores < threshold) & (labels == 1))
    width = (curves["high"] - curves["low"]) / len(curves["targets"])
    assert np.sum(width * np.array(curves["targets"])) == pytest.approx(1, rel=1e-3)


def test_the_trials_that_are_most_wrong_are_those_of_the_score_file(page, scored):
    (curves,) = [s["curves"] for s in data_of(page)["systems"] if s["name"] == "cosine"]
    (scores,) = (scored / "scores").glob("*/trials-cosine")
    lines = [line.split() for line in scores.read_text().splitlines()]
    for kind, label, sign in (("nontargets", "nontarget", -1), ("targets", "target", 1)):
        expected = sorted((line for line in lines if line[3] == label), key=lambda line: sign * float(line[2]))[:8]
        found = curves["worst"][kind]
        assert [score for *_, score in found] == pytest.approx([float(line[2]) for line in expected], rel=1e-4)
        assert found[0][:2] == expected[0][:2]


def test_neighbours_on_the_map_are_nearest_by_cosine(page, scored):
    map_ = data_of(page)["runs"][0]["map"]
    embeddings = Run(scored).trajectory()[0][-1].astype(float)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(len(unit))
    index, cosine = unpacked(map_["nearest"], "<u4").reshape(map_["n"], -1), unpacked(map_["cosines"], "<f4")
    assert index.shape[1] == 5
    np.testing.assert_allclose(cosine.reshape(index.shape), -np.sort(-cosines, axis=1)[:, :5], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, index, 1), cosine.reshape(index.shape), atol=1e-5)


def test_a_difference_between_runs_is_that_of_compare(pair, trials, voices, capsys):
    first, second = pair
    _, left_out = write_report(second.parent / "pair.html", [Run(first), Run(second)])
    assert left_out == []
    systems = data_of(second.parent / "pair.html")["systems"]
    (theirs,) = [s["difference"] for s in systems if s["run"] == 1 and s["name"] == "cosine"]
    capsys.readouterr()
    assert main(["compare", str(voices), str(first), str(second), "--trials", str(trials)]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("eer"))
    assert [float(row[3]), float(row[4]), float(row[6])] == pytest.approx(
        [theirs["difference"], theirs["low"], theirs["high"]], abs=1e-4
    )
    assert theirs["to"] == "tiny, cosine"


def test_settings_that_differ_are_shown_between_runs_and_to_the_defaults(pair):
    first, second = pair
    found = data_of(write_report(second.parent / "c.html", [Run(first), Run(second)])[0])["differences"]
    assert found["columns"] == ["tiny", Run(second).name]
    assert found["rows"] == [["head.margin", "0.2", "0.35"]]
    alone = data_of(write_report(second.parent / "d.html", [Run(first)])[0])["differences"]
    assert alone["columns"] == ["default", "tiny"]
    config, _ = load_run(first / "config.yaml")
    assert ["training.epochs", "20", str(config.training.epochs)] in alone["rows"]


def test_without_audio_a_page_is_small_and_reaches_for_nothing(scored, tmp_path):
    path, _ = write_report(tmp_path / "r.html", [Run(scored)])
    assert path.stat().st_size < 1e6
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text.split('<script type="application/json"')[0])
    assert "fetch(" not in text
    assert "XMLHttpRequest" not in text


def test_the_map_gives_the_projected_places_back(page, scored):
    map_ = data_of(page)["runs"][0]["map"]
    places = unpacked(map_["places"], "<u2").reshape(4, map_["n"], 2) / 65535
    low, high = np.array(map_["low"]), np.array(map_["high"])
    from spkver.pictures.projection import pca

    expected = pca(Run(scored).trajectory()[0], 1)
    np.testing.assert_allclose(low + places * (high - low), expected, atol=1e-4 * (high - low).max())


def test_audio_in_the_page_is_the_beginning_of_the_utterance(page, scored):
    clips = data_of(page)["clips"]
    number = data_of(page)["runs"][0]["data"]
    assert {f"{number}:{utt}" for utt in Run(scored).subset.utts} <= set(clips)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(next(iter(clips.values())))))
    assert 0.5 < len(samples) / rate <= 3.1


def test_audio_stops_at_its_size(scored, tmp_path):
    path, _ = write_report(tmp_path / "r.html", [Run(scored)], audio=True, audio_megabytes=0.1)
    clips = data_of(path)["clips"]
    assert 0 < len(clips) < len(Run(scored).subset.utts)
    assert sum(len(clip) for clip in clips.values()) <= 1.05e5


def test_the_first_clips_are_of_the_worst_trials_then_the_map_takes_a_speaker_in_turn(scored, tmp_path):
    run = Run(scored)
    assert _in_turns(run)[: len(set(run.subset.speakers))] == [
        run.subset.utts[np.flatnonzero(run.subset.speakers == speaker)[0]]
        for speaker in dict.fromkeys(run.subset.speakers)
    ]
    path, _ = write_report(tmp_path / "r.html", [run], audio=True, audio_megabytes=0.03)
    data = data_of(path)
    assert data["clips"]
    first = {name for s in data["systems"] for kind in s["curves"]["worst"].values() for name in kind[0][:2]}
    assert {key.split(":", 1)[1] for key in data["clips"]} <= first


def test_audio_of_a_run_that_does_not_say_its_data_is_left_out(scored, tmp_path):
    run = Run(scored)
    del run.about["data"]
    path, left_out = write_report(tmp_path / "r.html", [run], audio=True)
    assert data_of(path)["runs"][0]["data"] is None
    config = scored / "config.yaml"
    assert left_out == [f"no audio of {run.name}: {config}: does not say on what data it was trained"]


def test_margin_tables_are_the_heads_logits():
    tables = margin_tables(0.2, 32.0)
    curves = unpacked(tables["curves"]["ArcFace"], "<f4").reshape(len(MARGINS), 181)
    row = tables["margins"].index(0.5)
    theta = np.radians(np.arange(140))
    np.testing.assert_allclose(curves[row, :140], np.cos(theta + 0.5), atol=1e-3)
    assert tables["start"] == {"margin": 0.2, "scale": 32}


def test_names_in_the_data_cannot_become_markup(tmp_path):
    data = {"name": "</script><script>alert(1)</script>"}
    path = write_page(tmp_path / "p.html", "<b>", data, ["dom.js"])
    text = path.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<title>&lt;b&gt;</title>" in text
    assert data_of(path) == data


def test_packed_numbers_are_little_endian():
    assert base64.b64decode(packed(np.array([1, 256]), "u2")) == b"\x01\x00\x00\x01"


def test_what_a_run_lacks_is_said_and_the_page_is_written(scored, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(scored, bare)
    for name in ("snapshots", "scores"):
        shutil.rmtree(bare / name)
    (bare / "metrics.json").unlink()
    assert main(["report", str(bare), str(scored)]) == 0
    out = capsys.readouterr()
    assert out.out.strip() == str(bare / "report.html")
    for missing in ("metrics", "scores", "development", "map"):
        assert f"no {missing} of bare: " in out.err
    first, second = data_of(bare / "report.html")["runs"]
    assert "map" not in first
    assert "map" in second


def test_two_runs_of_one_name_are_told_apart(scored, tmp_path):
    path, _ = write_report(tmp_path / "r.html", [Run(scored), Run(scored)])
    assert [run["name"] for run in data_of(path)["runs"]] == ["tiny", "tiny (2)"]


def test_an_unknown_method_is_refused(scored, tmp_path):
    with pytest.raises(SpkverError, match="--method isomap: choose among"):
        write_report(tmp_path / "r.html", [Run(scored)], method="isomap")
