"""The report page: what is in it, and that it works in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.stats import norm

import spkver
from spkver.cli import main
from spkver.errors import SpkverError
from spkver.experiment.snapshots import Snapshot, Subset, write_snapshot, write_subset
from spkver.pictures import Run
from spkver.pictures.margin_page import MARGINS, margin_tables
from spkver.pictures.page import packed, write_page
from spkver.pictures.report import write_report
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
    (run,) = data_of(page)["runs"]
    assert run["metrics"] == json.loads((scored / "metrics.json").read_text())
    scores, labels = Run(scored).scores()["cosine"]
    eer, threshold = equal_error_rate(scores, labels)
    system = run["systems"]["cosine"]
    assert system["threshold"] == pytest.approx(threshold)
    name, x, y = system["points"][0]
    assert name == f"EER {eer:.2%}"
    assert (x[0], y[0]) == pytest.approx((norm.ppf(eer), norm.ppf(eer)), abs=1e-4)
    width = np.diff(system["edges"])
    assert np.sum(width * system["targets"]) == pytest.approx(1, rel=1e-3)
    assert sum(part["n"] * part["times"] for part in run["architecture"]["rows"]) == run["architecture"]["total"]


def test_the_map_gives_the_projected_places_back(page, scored):
    map_ = data_of(page)["runs"][0]["map"]
    places = unpacked(map_["places"], "<u2").reshape(4, map_["n"], 2) / 65535
    low, high = np.array(map_["low"]), np.array(map_["high"])
    from spkver.pictures.projection import pca

    expected = pca(Run(scored).trajectory()[0], 1)
    np.testing.assert_allclose(low + places * (high - low), expected, atol=1e-4 * (high - low).max())


def test_audio_in_the_page_is_the_beginning_of_the_utterance(page, scored):
    clips = data_of(page)["runs"][0]["audio"]
    assert set(clips) <= set(Run(scored).subset.utts)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(next(iter(clips.values())))))
    assert 0.5 < len(samples) / rate <= 3.1


def test_audio_stops_at_its_size_with_as_many_clips_of_every_speaker(scored, tmp_path):
    path, _ = write_report(tmp_path / "r.html", [Run(scored)], audio=True, audio_megabytes=0.1)
    clips = data_of(path)["runs"][0]["audio"]
    run = Run(scored)
    speaker_of = dict(zip(run.subset.utts.tolist(), run.subset.speakers.tolist()))
    counts = [sum(speaker_of[utt] == speaker for utt in clips) for speaker in set(speaker_of.values())]
    assert 0 < len(clips) < len(run.subset.utts)
    assert sum(len(clip) for clip in clips.values()) <= 1.05e5
    assert max(counts) - min(counts) <= 1


def test_audio_of_a_run_that_does_not_say_its_data_is_left_out(scored, tmp_path):
    run = Run(scored)
    del run.about["data"]
    path, left_out = write_report(tmp_path / "r.html", [run], audio=True)
    assert "audio" not in data_of(path)["runs"][0]
    config = scored / "config.yaml"
    assert left_out == [f"no audio of {run.name}: {config}: does not say on what data it was trained"]


def test_margin_tables_are_the_heads_logits():
    tables = margin_tables(0.2, 32.0)
    curves = unpacked(tables["curves"]["ArcFace"], "<f4").reshape(len(MARGINS), 181)
    row = tables["margins"].index(0.5)
    theta = np.radians(np.arange(140))
    np.testing.assert_allclose(curves[row, :140], np.cos(theta + 0.5), atol=1e-3)
    assert tables["start"] == {"margin": 0.2, "scale": 32}


RESULTS_ALONE = """
const fs = require("fs"), said = [];
const any = () => new Proxy(function () {}, {
  get: (_, name) => name === Symbol.toPrimitive ? () => "" : any(), apply: any });
globalThis.DATA = { runs: [{ name: "tiny", metrics: JSON.parse(process.argv[2]) }], ticks: [], margin: null };
const element = (tag, parent, text) => { said.push([tag, text]); return any(); };
try {
  new Function("DATA", "PAGE", "COLOURS", "DASHES", "element", "section", fs.readFileSync(process.argv[1], "utf8"))(
    DATA, any(), [], [], element, any());
} catch (error) { if (!(error instanceof ReferenceError)) throw error; }  // what comes behind needs a browser
console.log(JSON.stringify(said));
"""


def test_a_record_without_threshold_or_counts_does_not_empty_the_page():
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node to run the page's script")
    metrics = {"empty": {}, "test/trials": {"old": {"eer": 0.25}, "cosine": {"eer": None, "min_dcf_0.001": 0.5}}}
    script = Path(spkver.__file__).parent / "pictures/web/report.js"
    done = subprocess.run(
        [node, "-e", RESULTS_ALONE, "--", str(script), json.dumps(metrics)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [text for tag, text in said if tag == "p"] == ["test/trials: ? target, ? nontarget trials"]
    cells = [text for tag, text in said if tag == "td"]
    assert cells == ["tiny", "old", "25.00 %", "-", "-", "-", "tiny", "cosine", "-", "-", "0.500", "-"]


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
    for missing in ("metrics", "systems", "development", "map"):
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


# In a browser.


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000")
    for flag in (*flags, "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser, path, seconds=30):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    WebDriverWait(browser, seconds).until(lambda b: b.execute_script("return document.body.dataset.ready") == "yes")
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def move(browser, slider, value):
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'));",
        slider,
        value,
    )


def test_the_page_loads_without_errors_and_its_sliders_move_the_drawing(browser, page):
    assert opened(browser, page) == []
    assert len(browser.find_elements("css selector", "section")) >= 8

    x_of_map = "return Array.from(document.getElementById('embedding-map-0').data[0].x)"
    last = browser.execute_script(x_of_map)
    move(browser, "epoch-slider-0", 0)
    first = browser.execute_script(x_of_map)
    assert np.abs(np.subtract(first, last)).max() > 0.01

    heights = "return Array.from(document.getElementById('margin-curves').data[1].y)"
    before = browser.execute_script(heights)
    move(browser, "slider-m", 25)
    move(browser, "slider-s", 10)
    after = browser.execute_script(heights)
    assert before[0] != after[0]
    assert after[60] == pytest.approx(10 * np.cos(np.pi / 3 + 0.5), abs=0.01)
    move(browser, "slider-theta", 170)
    assert "fallback" in browser.find_element("id", "margin-said").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_click_on_a_point_plays_its_utterance(browser, page):
    opened(browser, page)
    run = data_of(page)["runs"][0]
    utt = next(iter(run["audio"]))
    seconds = browser.execute_async_script(
        "const done = arguments[1], heard = document.getElementById('audio-0');"
        "heard.addEventListener('loadedmetadata', () => done(heard.duration));"
        "heard.addEventListener('error', () => done('error ' + heard.error.message));"
        "document.getElementById('embedding-map-0').emit('plotly_click', {points: [{customdata: [arguments[0]]}]});",
        utt,
    )
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert seconds == pytest.approx(soundfile.info(io.BytesIO(base64.b64decode(run["audio"][utt]))).duration, abs=0.05)


def test_the_margin_page_works_alone(browser, tmp_path):
    assert main(["plot", "margin", "--interactive", str(tmp_path / "m.html"), "--margin", "0.3"]) == 0
    assert opened(browser, tmp_path / "m.html") == []
    assert "0.30 rad" in browser.find_element("id", "margin").text


def test_two_hundred_speakers_and_fifty_epochs_stay_usable(browser, scored, tmp_path):
    big = tmp_path / "big"
    shutil.copytree(scored, big)
    shutil.rmtree(big / "snapshots")
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"speaker{i:03d}" for i in range(200)], 20)
    utts = np.array([f"{speaker}-{i % 20}" for i, speaker in enumerate(speakers)])
    write_subset(big / "snapshots", Subset(utts, speakers, np.arange(4000) >= 3000))
    centres = rng.normal(size=(200, 64)).repeat(20, axis=0)
    noise = rng.normal(size=(4000, 64))
    for epoch in range(51):
        values = (noise + epoch / 20 * centres).astype(np.float32)
        none = np.zeros(0, int)
        write_snapshot(big / "snapshots", Snapshot(epoch, values, none, np.zeros((0, 1, 64)), none, none))
    path, left_out = write_report(tmp_path / "big.html", [Run(big)])
    assert left_out == []
    assert path.stat().st_size < 15e6
    assert opened(browser, path, seconds=60) == []
    took = browser.execute_async_script(
        "const done = arguments[0], map = document.getElementById('embedding-map-0'), start = performance.now();"
        "map.on('plotly_afterplot', () => done(performance.now() - start));"
        "const s = document.getElementById('epoch-slider-0'); s.value = 10; s.dispatchEvent(new Event('input'));"
    )
    assert took < 5000  # milliseconds, without a GPU
