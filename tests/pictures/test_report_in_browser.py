"""The report page in a real browser: what is seen, heard and said, at two widths, in light and dark, by keyboard."""

import io
import json
import re
import shutil
import time
from base64 import b64decode

import numpy as np
import pytest
import soundfile
from headless import complaints, move, opened, said

from spkver.cli import main
from spkver.experiment.snapshots import Snapshot, Subset, write_snapshot, write_subset
from spkver.pictures import Run
from spkver.pictures.report import write_report

STRANGER = "<img/src=x/onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory):
    """A page of two runs with sound; names in the second are markup."""
    first, second = pair
    strange = second.parent / "strange" / second.name
    shutil.copytree(second, strange)
    names = strange / "snapshots/utterances"
    lines = [line.split() for line in names.read_text().splitlines()]
    names.write_text("".join(f"{utt}{STRANGER} {STRANGER}{speaker} {kind}\n" for utt, speaker, kind in lines))
    scores = next(iter((strange / "scores").glob("*/*-cosine")))
    scores.write_text(re.sub(r"(?m)^(\S+) (\S+)", rf"\1{STRANGER} \2", scores.read_text()))
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(first), str(strange), "--audio", "--out", str(path)]) == 0
    return path


def data_of(browser):
    return browser.execute_script("return DATA")


# What reaches beyond the window, except within what scrolls by itself.
BEYOND = """
const scrolls = ".scroll, nav, pre, .skip, .speakers, svg *", window_end = document.documentElement.clientWidth + 1;
return [...document.querySelectorAll("body *")].filter((part) => !part.closest(scrolls))
  .filter((part) => part.getBoundingClientRect().right > window_end).map((part) => part.outerHTML.slice(0, 200));
"""
# Letters that reach over the edge of their chart.
CUT = """
return [...document.querySelectorAll("svg.chart")].flatMap((svg) => {
  const whole = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < whole.left - 1 || box.right > whole.right + 1 || box.bottom > whole.bottom + 1;
  }).map((text) => text.textContent);
});
"""
COLOURS = """
const style = getComputedStyle(document.body);
return [style.backgroundColor, style.color].map((colour) => colour.match(/\\d+/g).map(Number));
"""


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overflows_and_nothing_is_complained_of(browser, page, width, dark):
    complaints(browser)
    opened(browser, page, width, dark)
    assert complaints(browser) == []
    wide, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == width
    assert browser.execute_script(BEYOND) == []
    assert browser.execute_script(CUT) == []
    ground, text = browser.execute_script(COLOURS)
    assert (np.mean(ground) < 60 < 180 < np.mean(text)) if dark else (np.mean(ground) > 250 and np.mean(text) < 60)
    assert len(browser.find_elements("css selector", "svg.chart path")) > 40


def test_names_from_strangers_stay_text(browser, page):
    opened(browser, page)
    assert browser.find_elements("css selector", "img, main script, b") == []
    text = browser.find_element("tag name", "body").text
    assert "tiny, <img src=x onerror=alert(1)>" in text
    assert f"{STRANGER}" in browser.execute_script("return document.getElementById('map').textContent")
    assert complaints(browser) == []


def test_nothing_but_the_page_itself_runs_or_is_loaded(browser, page):
    opened(browser, page)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    time.sleep(0.1)
    assert browser.execute_script("return window.ran") is None
    assert len([line for line in complaints(browser) if "Content Security Policy" in line]) >= 2


def test_the_threshold_moves_over_both_charts_and_says_the_errors(browser, page, scored):
    opened(browser, page)
    scores, labels = Run(scored).scores()["cosine"]
    marks = "'#scores svg .rule, #scores svg .point:last-of-type'"
    places = f"return [...document.querySelectorAll({marks})].map((mark) => mark.getBoundingClientRect().x)"
    seen = set()
    for step in (300, 700):
        move(browser, "threshold", step)
        threshold = np.linspace(scores.min(), scores.max(), 1001)[step]
        rates = 1000 * np.mean(scores[labels == 0] >= threshold), 1000 * np.mean(scores[labels == 1] < threshold)
        accepted, refused = ("none" if rate == 0 else f"{rate:.1f}" if rate < 10 else f"{rate:.0f}" for rate in rates)
        expected = f"of 1,000 strangers {accepted} are accepted, of 1,000 true trials {refused} are refused."
        assert said(browser, "threshold-said").endswith(expected)
        seen.add(tuple(browser.execute_script(places)))
    (a, b), (c, d) = seen
    assert a != c
    assert b != d
    browser.find_element("id", "threshold-equal").click()
    curves = next(s for s in data_of(browser)["systems"] if s.get("best"))["curves"]
    assert int(browser.find_element("id", "threshold").get_property("value")) == curves["equal_error_step"]


def test_a_click_chooses_what_is_shown_and_a_head_sorts(browser, page):
    opened(browser, page)
    lines = "return document.querySelectorAll('#scores figure:first-of-type svg path[fill=none]').length"
    before = browser.execute_script(lines)
    chosen, *others = browser.find_elements("css selector", "#results input:checked")
    others[-1].click()
    assert browser.execute_script(lines) == before - 1
    buttons = browser.find_elements("css selector", "#results td button")
    chosen = next(button for button in buttons if button.text == "tiny, untrained")
    chosen.click()
    assert "Scores of tiny, untrained" in browser.find_element("id", "scores").text
    assert "Strangers that score highest: tiny, untrained" in browser.find_element("id", "worst").text
    assert chosen.get_attribute("aria-pressed") == "true"

    head = browser.find_element("css selector", "#results th:nth-child(3) button")
    cells = "document.querySelectorAll('#results tbody td:nth-child(3)')"
    column = f"return [...{cells}].map((cell) => parseFloat(cell.textContent))"
    for order, up in (("ascending", 1), ("descending", -1)):
        head.click()
        values = browser.execute_script(column)
        assert values == sorted(values, key=lambda value: up * value)
        assert browser.find_element("css selector", "#results th:nth-child(3)").get_attribute("aria-sort") == order
    assert len(browser.find_elements("css selector", "#results td.best")) >= 3


def test_what_can_be_heard_is_said(browser, page, scored, tmp_path):
    def sentence(path):
        opened(browser, path)
        return browser.find_element("css selector", "#worst p").text

    assert sentence(page) == "Their first seconds can be heard."
    silent, _ = write_report(tmp_path / "silent.html", [Run(scored)])
    assert sentence(silent) == "`spkver report --audio` puts their sound into the page."
    assert "plays it" not in said(browser, "map")
    shutil.copytree(scored, tmp_path / "moved")
    for path in (tmp_path / "moved" / "scores").glob("*/made_of/*.json"):
        record = json.loads(path.read_text())
        record["data"]["path"] = str(tmp_path / "gone")
        path.write_text(json.dumps(record))
    gone, _ = write_report(tmp_path / "gone.html", [Run(tmp_path / "moved")], audio=True)
    assert sentence(gone) == "Their recordings were not found when this page was made."


def test_the_map_moves_between_epochs_with_one_scale_for_both_axes(browser, page):
    opened(browser, page)
    picture = "return document.getElementById('map-canvas-0').toDataURL()"
    pictures = []
    for at, text in ((0, "before training"), (0.5, "epoch 0.5"), (3, "epoch 3.0")):
        move(browser, "epoch-slider-0", at)
        assert browser.find_element("css selector", "output[for=epoch-slider-0]").text == text
        pictures.append(browser.execute_script(picture))
    assert len(set(pictures)) == 3
    # Two utterances that lie apart along one axis and along the other: as many pixels a unit in both.
    browser.execute_script("document.getElementById('map-canvas-0').focus()")
    data = data_of(browser)["runs"][0]["map"]
    places = np.frombuffer(b64decode(data["places"]), "<u2").reshape(-1, data["n"], 2)[-1] / 65535
    low, high = np.array(data["low"]), np.array(data["high"])
    real = low + places * (high - low)
    drawn = np.array(browser.execute_script("return mapOf(0).places"))
    scale = np.ptp(drawn, axis=0) / np.ptp(real, axis=0)
    assert scale[0] == pytest.approx(scale[1], rel=1e-3)


def test_the_map_plays_and_pauses(browser, page):
    opened(browser, page)
    play = browser.find_element("id", "play-0")
    slider = browser.find_element("id", "epoch-slider-0")
    play.click()
    assert "pause" in play.text
    time.sleep(0.4)
    play.click()
    assert "play" in play.text
    at = float(slider.get_property("value"))
    assert 0 < at < 3
    time.sleep(0.15)
    assert float(slider.get_property("value")) == at


def test_a_speaker_is_found_and_an_utterance_has_its_neighbours_and_its_sound(browser, page, scored):
    opened(browser, page)
    search = browser.find_element("id", "search-0")
    speakers = list(dict.fromkeys(Run(scored).subset.speakers))
    search.send_keys(speakers[1])
    assert said(browser, "found-0") == f"1 of {len(speakers)} speakers"
    shown = [b for b in browser.find_elements("css selector", "#map .speakers")[0].find_elements("tag name", "button")]
    assert [b.text.split(" ")[0] for b in shown if b.is_displayed()] == [speakers[1]]

    browser.find_element("id", "map-canvas-0").send_keys("\ue014")  # arrow right
    utt = Run(scored).subset.utts[0]
    told = said(browser, "told-0")
    assert told.startswith(f"{utt} of speaker {Run(scored).subset.speakers[0]}")
    assert len(re.findall(r"\b0\.\d\d|1\.00", told)) == 5
    browser.find_element("id", "map-canvas-0").send_keys("\ue007")  # Enter
    neighbour = browser.find_element("css selector", "#told-0 .near button")
    name = neighbour.text
    neighbour.send_keys("\ue007")
    assert said(browser, "told-0").startswith(f"{name} of speaker ")
    assert browser.switch_to.active_element == browser.find_element("css selector", "#told-0 .near button")
    clips = data_of(browser)["clips"]
    clip = clips[f"{data_of(browser)['runs'][0]['data']}:{utt}"]
    seconds = browser.execute_async_script(
        "const done = arguments[0], heard = document.getElementById('heard');"
        "if (heard.duration) done(heard.duration);"
        "heard.addEventListener('loadedmetadata', () => done(heard.duration));"
        "heard.addEventListener('error', () => done('error ' + heard.error.message));"
    )
    assert seconds == pytest.approx(soundfile.info(io.BytesIO(b64decode(clip))).duration, abs=0.05)
    assert complaints(browser) == []


# Whether there is anything that a reader could notice since the last call.
CHANGED = """
const pictures = [...document.querySelectorAll("canvas[tabindex]")].map((canvas) => canvas.toDataURL());
const open = [...document.querySelectorAll("details")].map((part) => part.open);
const state = document.getElementById("page").innerHTML + pictures.join() + open;
const changed = state !== window.state_before;
window.state_before = state;
return changed;
"""
STOP = """
const now = document.activeElement;
if (!now || now === document.body) return null;
const count = document.body.dataset;
if (!now.dataset.stop) now.dataset.stop = count.stops = +(count.stops || 0) + 1;
const among = now.parentElement.querySelector(":scope > " + now.tagName);
const label = now.getAttribute("aria-label") || now.labels?.[0]?.textContent || now.textContent;
return { stop: +now.dataset.stop, tag: now.tagName, type: now.type || "", label, first: among === now,
  near: now.closest(".near") !== null, ring: getComputedStyle(now).outlineStyle !== "none" };
"""
CONTROLS = """
const all = document.querySelectorAll("input, figure[tabindex], canvas[tabindex], summary");
return [...all].filter((part) => part.offsetParent).length;
"""


def test_every_control_is_reached_by_tab_has_a_name_and_a_ring_and_changes_what_is_said(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(key):
        ActionChains(browser, duration=0).send_keys(key).perform()

    opened(browser, page)
    keys = {"BUTTON": Keys.ENTER, "SUMMARY": Keys.ENTER, "CANVAS": Keys.ARROW_RIGHT, "FIGURE": Keys.ARROW_RIGHT}
    by_type = {"checkbox": Keys.SPACE, "range": Keys.ARROW_LEFT, "search": "1"}
    tried, last = [], 0
    for _ in range(400):
        press(Keys.TAB)
        stop = browser.execute_script(STOP)
        if stop is None or stop["stop"] < last:  # round again
            break
        last = stop["stop"]
        assert stop["label"].strip(), stop
        assert stop["ring"], stop
        key = by_type.get(stop["type"]) or keys.get(stop["tag"])
        # Of the many buttons of one list the first is tried; sounds and neighbours are another test's matter.
        elsewhere = stop["near"] or stop["label"].startswith("play ")
        if key is None or elsewhere or (stop["tag"] == "BUTTON" and not stop["first"]):
            continue
        browser.execute_script(CHANGED)
        press(key)
        assert browser.execute_script(CHANGED), f"{stop} changes nothing"
        tried.append(stop["tag"])
    assert len([tag for tag in tried if tag != "BUTTON"]) == browser.execute_script(CONTROLS)
    assert tried.count("BUTTON") > 8
    assert complaints(browser) == []


def test_on_paper_all_is_unfolded_and_no_control_is_left(browser, page):
    opened(browser, page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert not browser.find_element("id", "contents").is_displayed()
    assert not browser.find_element("id", "threshold").is_displayed()
    assert all(browser.execute_script("return [...document.querySelectorAll('details')].map((d) => d.open)"))


def test_the_margin_explorer_says_angles_logits_and_the_boundary(browser, tmp_path):
    assert main(["plot", "margin", "--interactive", str(tmp_path / "m.html"), "--margin", "0.3"]) == 0
    assert (tmp_path / "m.html").stat().st_size < 4e5
    for width in (1400, 400):
        opened(browser, tmp_path / "m.html", width)
        assert complaints(browser) == []
        assert browser.execute_script(BEYOND) == browser.execute_script(CUT) == []
        assert "0.30 rad" in said(browser, "margin")
    move(browser, "slider-m", 25)
    move(browser, "slider-s", 10)
    move(browser, "slider-theta", 60)
    cells = [cell.text for cell in browser.find_elements("css selector", "#margin td.number")]
    assert float(cells[1]) == pytest.approx(10 * np.cos(np.pi / 3 + 0.5), abs=0.01)
    assert f"from 5.00 to {cells[1]}" in said(browser, "margin-said")
    # Between two speakers 90 degrees apart a margin of 0.5 rad leaves 28.6 degrees to neither.
    assert "a gap of 29°" in said(browser, "boundary-said")
    # Four rings of different sizes: none hides another.
    rings = "[...document.querySelectorAll('.point')]"
    sizes = browser.execute_script(f"return {rings}.map((ring) => Math.round(ring.getBBox().width))")
    assert len(set(sizes)) == len(sizes) == 4
    move(browser, "slider-m", 0)
    assert "without a margin there is no gap" in said(browser, "boundary-said")
    move(browser, "slider-m", 25)
    move(browser, "slider-theta", 170)
    assert "fallback" in said(browser, "margin-said")


def test_a_record_without_threshold_or_counts_does_not_empty_the_page(browser, scored, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(scored, bare, ignore=shutil.ignore_patterns("scores"))
    metrics = {"empty": {}, "test/trials": {"old": {"eer": 0.25}, "cosine": {"eer": None, "min_dcf_0.001": 0.5}}}
    (bare / "metrics.json").write_text(json.dumps(metrics))
    path, _ = write_report(tmp_path / "r.html", [Run(bare)])
    opened(browser, path)
    assert complaints(browser) == []
    assert "test/trials: ? target, ? nontarget trials" in said(browser, "results")
    lines = browser.find_elements("css selector", "#results tbody tr")
    rows = [[cell.text for cell in line.find_elements("tag name", "td")] for line in lines]
    assert rows == [["", "old", "25.00 %", *["-"] * 5], ["", "cosine", "-", "-", "0.500", *["-"] * 3]]


def test_two_hundred_speakers_stay_usable(browser, scored, tmp_path):
    big = tmp_path / "big"
    shutil.copytree(scored, big, ignore=shutil.ignore_patterns("snapshots"))
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"speaker{i:03d}" for i in range(200)], 5)
    utts = np.array([f"{speaker}-{i % 5}" for i, speaker in enumerate(speakers)])
    write_subset(big / "snapshots", Subset(utts, speakers, np.arange(1000) >= 750))
    centres = rng.normal(size=(200, 16)).repeat(5, axis=0)
    noise = rng.normal(size=(1000, 16))
    predicted = np.where(np.arange(1000) < 750, np.arange(1000) // 5, -1)
    for epoch in range(0, 51, 10):
        values = (noise + epoch / 20 * centres).astype(np.float32)
        none = np.zeros(0, int)
        snapshot = Snapshot(epoch, values, predicted, np.zeros((150, 1, 16), np.float32), none, none)
        write_snapshot(big / "snapshots", snapshot)
    path, left_out = write_report(tmp_path / "big.html", [Run(big)])
    assert left_out == []
    assert path.stat().st_size < 1e6
    opened(browser, path)
    assert complaints(browser) == []
    browser.find_element("id", "search-0").send_keys("speaker19")
    assert said(browser, "found-0") == "10 of 200 speakers"
