"""The tour's notebook runs from a clean kernel on a finished run, and is kept without outputs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from spkver.errors import SpkverError
from spkver.pictures import Run, notebook
from spkver.scoring.metrics import equal_error_rate

TOUR = Path(__file__).parents[2] / "recipes" / "tour" / "tour.ipynb"


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 15
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_from_a_clean_kernel_and_shows_every_picture(scored, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for name in ("good", "no_clipping", "margin_from_start", "one_speaker"):
        (tmp_path / name).symlink_to(scored)
    monkeypatch.setenv("SPKVER_TOUR", str(tmp_path))
    tour = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(tour, timeout=300, kernel_name="python3").execute(cwd=str(TOUR.parent))
    outputs = [output for cell in tour.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    html = [str(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]
    # 4 of margins, DET, a bad run's confusion, architecture; nine good runs above a bad one; two recordings
    # to tell from a third.
    assert shown.count("image/png") >= 7
    assert sum("A good run" in text and "A bad run: " in text for text in html) == 9
    assert sum("<audio" in text for text in html) == 3
    # Sliders without a kernel: a threshold, a confusion matrix, embeddings in motion.
    assert sum('type="range"' in text for text in html) == 3
    text = "".join(output.get("text", "") for output in outputs)
    assert "the same speaker: cosine" in text
    assert f"EER {equal_error_rate(*Run(scored).scores()['cosine'])[0]:.2%}" in text


def test_the_page_in_docs_is_of_the_notebook_and_small():
    pages = (TOUR.parents[2] / "docs" / "tour.html").read_text(encoding="utf-8")
    assert len(pages) < 5_000_000
    assert "A bad run: one speaker a batch" in pages
    # Every heading of the notebook.
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    for line in (line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]):
        if line.startswith("#"):
            assert line.strip("# \n") in pages, line


def test_a_moved_threshold_says_what_it_refuses_and_accepts(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    scores = rng.normal(size=600) + 3 * labels
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda axis, text, **_: titles.append(text) or Title(axis, text, titles))
    html = notebook.threshold_slider(scores, labels, n_places=5)._repr_html_()
    assert html.count("<img ") == 5
    said = [
        re.findall(r"threshold (\S+):.* speaker (\d+) are refused,\n.*speakers (\d+) are accepted", t)
        for t in titles[1:]
    ]
    for [(place, refused, accepted)] in said:
        assert int(refused) == pytest.approx(1000 * (scores[labels == 1] < float(place)).mean(), abs=5)
        assert int(accepted) == pytest.approx(1000 * (scores[labels == 0] >= float(place)).mean(), abs=5)
    assert len(said) == 5
    # The one that is shown first is that of equal rates.
    first = re.findall(r"<img [^>]*?(hidden)?>", html).index("")
    [(place, refused, accepted)] = said[first]
    eer, threshold = equal_error_rate(scores, labels)
    assert float(place) == pytest.approx(threshold, abs=5e-4)
    assert [int(refused), int(accepted)] == pytest.approx([1000 * eer] * 2, abs=5)


class Title(Text):
    """The title of axes, which notes what it is set to."""

    def __init__(self, axis, text, noted):
        super().__init__(0.5, 1.0, text)
        self.noted = noted

    def set_text(self, text):
        super().set_text(text)
        if hasattr(self, "noted"):
            self.noted.append(text)


def test_a_name_of_a_stranger_stays_text_beside_a_picture():
    good = notebook.margin_at(60, 0.5, 10.0)
    html = notebook.beside(good, good, "<script>")._repr_html_()
    assert "<script>" not in html
    assert "A bad run: &lt;script&gt;" in html
    assert html.count("data:image/png;base64,") == 2


def test_sliders_draw_where_they_stand():
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    sliders = notebook.margin_sliders()
    assert [child.value for child in sliders.children[:3]] == [40, 0.2, 32]
    axis = notebook.margin_at(60, 0.5, 10.0).axes[0]
    points = [line.get_xydata()[0] for line in axis.lines if len(line.get_xydata()) == 1]
    assert points[0] == pytest.approx([60, 5.0], abs=1e-3)
    assert points[1] == pytest.approx([60, 10 * math.cos(math.pi / 3 + 0.5)], abs=1e-3)


def test_without_ipywidgets_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    with pytest.raises(SpkverError, match=r"pip install 'spkver\[notebook\]'"):
        notebook.margin_sliders()
