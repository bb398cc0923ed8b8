"""Models of several utterances: read with their faults named, enrolled as a mean embedding or a mean score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data.lookup import Rows
from spkver.errors import SpkverError
from spkver.scoring.backends.cosine import unit_rows
from spkver.scoring.backends.enrolment import Models, enrolment_means, expand_trials, read_models, score_means
from spkver.scoring.systems import EmbeddingSet, enrolled_embeddings

UTTS = [f"u{n}" for n in range(8)]
ROWS = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


def read(tmp_path, text):
    (tmp_path / "models").write_bytes(text.encode())
    return read_models(tmp_path / "models", Rows(UTTS, "utts"))


def test_a_list_of_models_is_read_with_either_line_end(tmp_path):
    models = read(tmp_path, "anna u3 u1\r\n\r\nbob u7\r\n")
    assert (models.names, models.rows.tolist(), models.starts.tolist()) == (["anna", "bob"], [3, 1, 7], [0, 2, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anna u1\n\nbob\n", "models:3: model 'bob' has no utterance"),
        ("anna u1 u2 u1\n", "models:1: model 'anna' has 'u1' twice"),
        ("anna u1\nbob u2 u99\n", "models:2: utterance 'u99' of model 'bob' is in no line of utts"),
        ("anna u1\nanna u2\n", "models:2: model 'anna' is there twice, first on line 1"),
        ("\n", "models: the list is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    with pytest.raises(SpkverError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@settings(deadline=None, max_examples=50)
@given(
    models=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True), min_size=1, max_size=6),
    data=st.data(),
)
def test_both_ways_are_what_a_loop_says_and_agree_for_the_cosine(models, data):
    built = Models([str(n) for n in range(len(models))], np.concatenate(models), np.cumsum([0, *map(len, models)]))
    trials = data.draw(st.lists(st.tuples(st.integers(0, len(models) - 1), st.integers(0, 7)), max_size=12))
    model_index, test_index = np.array(trials, dtype=np.int64).reshape(-1, 2).T
    unit = unit_rows(ROWS).astype(np.float64)
    enroll, test, starts = expand_trials(model_index, test_index, built)
    if not len(trials):
        assert len(enroll) == len(test) == len(starts) == 0
        return
    found = score_means((unit[enroll] * unit[test]).sum(1), starts)
    expected = [np.mean([unit[row] @ unit[t] for row in models[m]]) for m, t in trials]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # For the cosine it is the product with the mean that was not brought to unit length.
    sums = built.sums(unit) / built.counts[:, None]
    np.testing.assert_allclose(found, (sums[model_index] * unit[test_index]).sum(1), atol=1e-12)
    means = enrolment_means(ROWS, built)
    np.testing.assert_allclose(means, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)


def test_a_models_length_does_not_count_and_opposite_utterances_are_refused():
    rows = np.array([[3, 0], [0, 0.1], [-7, 0]], np.float32)
    models = Models(["a"], np.array([0, 1]), np.array([0, 2]))
    np.testing.assert_allclose(enrolment_means(rows, models), [[0.5**0.5] * 2], atol=1e-7)
    with pytest.raises(ValueError, match="the utterances of model 'b' cancel each other out"):
        enrolment_means(rows, Models(["a", "b"], np.array([0, 0, 2]), np.array([0, 1, 3])))


def test_the_measures_of_a_model_are_the_means_of_its_utterances():
    voices = EmbeddingSet(ROWS, {"duration": np.arange(1.0, 9.0), "magnitude": np.arange(8.0) ** 2})
    enrolled = enrolled_embeddings(voices, Models(["a", "b"], np.array([0, 1, 5, 3]), np.array([0, 3, 4])))
    assert enrolled.measures["duration"].tolist() == [3.0, 4.0]
    assert enrolled.measures["magnitude"] == pytest.approx([26 / 3, 9])
    # The same recordings again tell nothing new.
    twice = enrolled_embeddings(voices, Models(["a"], np.array([0, 1, 5] * 2), np.array([0, 6])))
    assert twice.measures["duration"].tolist() == [3.0]
    np.testing.assert_allclose(twice.embeddings, enrolled.embeddings[:1], atol=1e-6)
