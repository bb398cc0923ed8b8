"""Snapshots: what training keeps of each epoch for the pictures."""

import numpy as np
import pytest
import torch

from spkver.config import load_config
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_tensors
from spkver.experiment.paths import Experiment
from spkver.experiment.snapshots import GRADIENT_EDGES, read_snapshot, read_subset, snapshot_files
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter, NormFace, Softmax
from spkver.training.snapshot_writer import Snapshots, gradient_histogram
from spkver.training.trainer import Trainer


def test_every_epoch_and_the_time_before_training_have_a_snapshot(trained):
    files = snapshot_files(trained / "snapshots")
    assert list(files) == [0, 1, 2, 3]
    subset = read_subset(trained / "snapshots")
    speakers = set((trained / "model" / "speakers").read_text().split())
    assert set(subset.speakers[~subset.held_out]) <= speakers
    assert not set(subset.speakers[subset.held_out]) & speakers
    for epoch, path in files.items():
        snapshot = read_snapshot(path, epoch)
        assert snapshot.embeddings.shape[0] == len(subset.utts)
        np.testing.assert_allclose(np.linalg.norm(snapshot.embeddings, axis=1), 1, atol=1e-5)
        assert (snapshot.predicted[subset.held_out] == -1).all()
        assert (snapshot.predicted[~subset.held_out] >= 0).all()
        assert len(snapshot.gradients_before) == (0 if epoch == 0 else len(GRADIENT_EDGES) - 1)


def test_centres_are_the_heads_weights_of_the_subset_and_predictions_the_nearest_of_them(trained):
    path = snapshot_files(trained / "snapshots")[3]
    snapshot, subset = read_snapshot(path, 3), read_subset(trained / "snapshots")
    weight = load_tensors(trained / "checkpoints" / "epoch-003.safetensors")["head.weight"].numpy()
    order = (trained / "model" / "speakers").read_text().split()
    rows = [order.index(speaker) for speaker in subset.train_speakers]
    np.testing.assert_array_equal(snapshot.centres[:, 0], weight[rows])
    centres = weight[rows] / np.linalg.norm(weight[rows], axis=1, keepdims=True)
    nearest = (snapshot.embeddings[~subset.held_out] @ centres.T).argmax(1)
    np.testing.assert_array_equal(snapshot.predicted[~subset.held_out], nearest)


def test_clipping_moves_gradients_down_and_counts_as_many(trained):
    snapshot = read_snapshot(snapshot_files(trained / "snapshots")[1], 1)
    assert snapshot.gradients_before.sum() == snapshot.gradients_after.sum() > 1000
    middle = (GRADIENT_EDGES[1:] + GRADIENT_EDGES[:-1]) / 2
    assert snapshot.gradients_after @ middle <= snapshot.gradients_before @ middle


def test_gradient_histogram_equals_numpys():
    weight = torch.nn.Parameter(torch.zeros(1000))
    weight.grad = torch.randn(1000, generator=torch.manual_seed(3)) * 0.01
    weight.grad[:10] = 0
    weight.grad[10] = 1e-20
    frozen = torch.nn.Parameter(torch.zeros(5))
    expected = np.log10(np.abs(weight.grad[10:].numpy())).clip(-12, 2)
    counts = np.histogram(expected, GRADIENT_EDGES)[0]
    got = gradient_histogram([weight, frozen]).numpy()
    assert got.sum() == 990
    # A value on an edge may fall to either side.
    assert np.abs(got - counts).sum() <= 4


def test_the_choice_is_seeded_bounded_and_of_both_kinds(voices, tmp_path):
    directory = keep_usable(read_data_directory(voices), 16000)
    training, held_out = directory.subset(directory.speakers[:5]), directory.subset(directory.speakers[5:])
    one, two = (Snapshots(tmp_path, training, held_out, 3, 2, seed=7).subset for _ in range(2))
    assert one.utts.tolist() == two.utts.tolist()
    assert len(one.utts) == 3 * 2 + min(3, len(directory.speakers) - 5) * 2
    other = Snapshots(tmp_path, training, held_out, 3, 2, seed=8).subset
    assert other.utts.tolist() != one.utts.tolist()
    assert not Snapshots(tmp_path, training, None, 3, 2, seed=7).subset.held_out.any()


class Extractor:
    """Gives utterance ``n`` of all the embedding that lies by a given angle from the first axis."""

    def __init__(self, angles):
        self.angles = angles

    def embed_utterances(self, utterances, title):
        assert title == "snapshot" and all(utterance.seconds for utterance in utterances)
        angles = [self.angles[utterance.id] for utterance in utterances]
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


@pytest.mark.parametrize("rows_per_class", [1, 2])
def test_a_snapshot_holds_embeddings_nearest_classes_of_the_subset_and_centres(voices, tmp_path, rows_per_class):
    directory = keep_usable(read_data_directory(voices), 16000)
    training, held_out = directory.subset(directory.speakers[:7]), directory.subset(directory.speakers[7:])
    snapshots = Snapshots(tmp_path, training, held_out, 3, 2, seed=7)
    snapshots.begin()
    subset = read_subset(tmp_path)
    assert subset.utts.tolist() == snapshots.subset.utts.tolist() == [u.id for u in snapshots.utterances]
    assert subset.held_out.tolist() == [False] * 6 + [True] * 6
    # Speakers in the directory's order, and utterances in theirs.
    assert subset.speakers.tolist() == sorted(subset.speakers.tolist())
    assert subset.utts.tolist() == sorted(subset.utts.tolist())
    head = NormFace(2, 7, rows_per_class=rows_per_class)
    angles = torch.arange(7) * 0.5
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    head.weight.data = 3 * rows.repeat_interleave(rows_per_class, 0)
    if rows_per_class == 2:
        head = ArcMarginProductIntertopkSubcenter(2, 7, K=2, k_top=2)
        head.weight.data = 3 * rows.repeat_interleave(2, 0)
    chosen = [training.speakers.index(speaker) for speaker in subset.train_speakers]
    assert len(chosen) == 3
    # The first utterance of each lies nearest to the class after its own, the other one to its own.
    at = {utt: 0.5 * chosen[(n // 2 + (n % 2 == 0)) % 3] + 0.01 for n, utt in enumerate(subset.utts[:6])}
    extractor = Extractor(at | dict.fromkeys(subset.utts[6:].tolist(), 1.0))
    histograms = torch.stack([torch.arange(len(GRADIENT_EDGES) - 1), torch.ones(len(GRADIENT_EDGES) - 1).long()])
    few = head.copy_of(snapshots.classes)
    snapshots.write(snapshots.take(4, extractor, few, histograms))
    snapshot = read_snapshot(snapshot_files(tmp_path)[4], 4)
    assert snapshot.predicted.tolist() == [1, 0, 2, 1, 0, 2] + [-1] * 6
    np.testing.assert_allclose(snapshot.embeddings[0], [np.cos(at[subset.utts[0]]), np.sin(at[subset.utts[0]])], 1e-6)
    np.testing.assert_allclose(snapshot.embeddings[6:], [[np.cos(1), np.sin(1)]] * 6, rtol=1e-6)
    expected = (3 * rows[chosen])[:, None].expand(3, rows_per_class, 2)
    np.testing.assert_allclose(snapshot.centres, expected, rtol=1e-6)
    assert snapshot.gradients_before.tolist() == list(range(len(GRADIENT_EDGES) - 1))
    assert snapshot.gradients_after.tolist() == [1] * (len(GRADIENT_EDGES) - 1)
    snapshots.write(snapshots.take(0, extractor, few, None))
    assert len(read_snapshot(snapshot_files(tmp_path)[0], 0).gradients_before) == 0


def test_no_more_are_chosen_than_there_are(voices, tmp_path):
    directory = keep_usable(read_data_directory(voices), 16000)
    snapshots = Snapshots(tmp_path, directory, None, 100, 100, seed=1)
    assert sorted(snapshots.subset.utts) == sorted(utterance.id for utterance in directory.utterances)
    assert {u.seconds for u in snapshots.utterances} <= set(directory.durations.values())
    assert snapshots.classes.tolist() == list(range(10))


def test_no_snapshots_on_request(tiny_config, voices, tmp_path):
    directory = keep_usable(read_data_directory(voices), 16000)
    config = load_config(tiny_config, ["snapshots.speakers=0", "training.epochs=1"])
    Trainer(config, directory, Experiment(tmp_path / "run"), None).run({})
    assert not (tmp_path / "run" / "snapshots").exists()


@pytest.mark.parametrize("head", [Softmax, NormFace, ArcMarginProduct, ArcMarginProductIntertopkSubcenter])
def test_plain_logits_are_the_logits_without_a_margin(head):
    torch.manual_seed(1)
    head = head(8, 10)
    embedding, label = torch.randn(4, 8), torch.tensor([0, 3, 9, 3])
    head.update(0.0)
    torch.testing.assert_close(head.plain_logits(embedding), head(embedding, label), atol=1e-4, rtol=1e-4)


def test_a_damaged_snapshot_is_named(tmp_path):
    (tmp_path / "epoch-001.npz").write_bytes(b"PK nothing")
    with pytest.raises(SpkverError, match=r"epoch-001\.npz: is no snapshot"):
        read_snapshot(tmp_path / "epoch-001.npz", 1)


def test_a_bad_line_of_the_subset_is_named(tmp_path):
    (tmp_path / "utterances").write_text("u1 s1 train\nu2 s1\n")
    with pytest.raises(SpkverError, match=r"utterances:2: expected"):
        read_subset(tmp_path)
    with pytest.raises(SpkverError, match=r"snapshots\.speakers above 0"):
        read_subset(tmp_path / "nowhere")


def test_a_run_killed_before_its_first_snapshot_has_them_all_when_resumed(tiny_config, voices, tmp_path):
    directory = keep_usable(read_data_directory(voices), 16000)
    config, experiment = load_config(tiny_config, ["training.epochs=1"]), Experiment(tmp_path / "run")
    experiment.begin(config, {})  # all that such a run leaves
    Trainer(config, directory, experiment, None, resume=True).run({})
    assert list(snapshot_files(experiment.snapshots)) == [0, 1]
    assert len(read_subset(experiment.snapshots).utts) == len(read_snapshot(*_first(experiment)).embeddings)
    assert (experiment.untrained / "model.safetensors").is_file()


def _first(experiment):
    epoch, path = next(iter(snapshot_files(experiment.snapshots).items()))
    return path, epoch
