"""LDA finds the subspace that scikit-learn finds; preprocessing centres, projects and normalises lengths."""

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from spkver.scoring.backends.lda import Preprocessing, as_they_are, fisher_lda, fit_preprocessing, speaker_moments


def processed(preprocessing, embeddings):
    return np.concatenate([rows for _, rows in preprocessing.chunks(embeddings)])


@pytest.fixture
def people():
    """40 speakers with 2 to 20 utterances of 15 dimensions, which differ in scale and correlate."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(40), rng.integers(2, 21, size=40))
    mixing = rng.normal(size=(15, 15)) * np.geomspace(0.1, 10, 15)
    voices = rng.normal(size=(40, 15)) * np.geomspace(2, 0.1, 15)
    return (voices[speakers] + rng.normal(size=(len(speakers), 15))) @ mixing + 100, speakers


@pytest.mark.parametrize("dim", [1, 4, 15])
def test_the_subspace_is_that_of_scikit_learn(people, dim):
    embeddings, speakers = people
    lda = fit_preprocessing(embeddings, speakers, dim, length_norm=False).lda
    theirs = LinearDiscriminantAnalysis(solver="svd").fit(embeddings, speakers).scalings_[:, :dim]
    assert np.max(subspace_angles(lda, theirs)) < 1e-6
    if dim < 15:
        assert np.max(subspace_angles(lda[:, :1], theirs[:, :1])) < 1e-6, "the best direction comes first"


def test_projected_rows_have_unit_covariance_within_speakers(people):
    embeddings, speakers = people
    preprocessing = fit_preprocessing(embeddings, speakers, 6, length_norm=False)
    rows = processed(preprocessing, embeddings)
    offset = rows - np.array([rows[speakers == speaker].mean(axis=0) for speaker in speakers])
    np.testing.assert_allclose(offset.T @ offset / len(rows), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-10)


def test_the_chain_is_centre_then_lda_then_length(people):
    embeddings, speakers = people
    preprocessing = fit_preprocessing(embeddings, speakers, 6, length_norm=True)
    expected = (embeddings - embeddings.mean(axis=0)) @ preprocessing.lda
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(processed(preprocessing, embeddings), expected, atol=1e-10)
    without = fit_preprocessing(embeddings, speakers, None, length_norm=False)
    np.testing.assert_allclose(processed(without, embeddings), embeddings - embeddings.mean(axis=0), atol=1e-10)
    assert (preprocessing.dim, without.dim) == (6, 15)


def test_moments_of_many_chunks_are_those_of_the_speakers():
    rng = np.random.default_rng(1)
    embeddings = (rng.normal(size=(40_000, 3)) + 1e4).astype(np.float32)
    speakers = rng.integers(0, 9, size=40_000)
    moments = speaker_moments(embeddings, speakers, as_they_are(embeddings))
    groups = [embeddings[speakers == speaker].astype(np.float64) for speaker in range(9)]
    np.testing.assert_array_equal(moments.counts, [len(group) for group in groups])
    np.testing.assert_allclose(moments.means, [group.mean(axis=0) for group in groups], rtol=1e-12)
    scatter = sum(np.cov(group.T, bias=True) * len(group) for group in groups)
    np.testing.assert_allclose(moments.within_scatter, scatter, atol=1e-9 * np.trace(scatter))


@pytest.mark.parametrize("n_utts", [2, 5])
def test_lda_serves_unseen_speakers_with_fewer_utterances_than_dimensions(n_utts):
    rng = np.random.default_rng(2)
    scales = np.geomspace(3, 0.03, 100)
    voices = rng.normal(size=(18, 100)) * scales
    speakers = np.repeat(np.arange(18), n_utts)
    embeddings = voices[speakers] + rng.normal(size=(len(speakers), 100))
    lda = fit_preprocessing(embeddings, speakers, 10, length_norm=False).lda
    unseen = rng.normal(size=(2000, 100)) * scales @ lda
    noise = rng.normal(size=(2000, 100)) @ lda

    def share(between, within):
        return np.trace(between.T @ between) / np.trace(within.T @ within)

    as_embedded = share(rng.normal(size=(2000, 100)) * scales, rng.normal(size=(2000, 100)))
    assert share(unseen, noise) > 1.5 * as_embedded


def test_a_dead_dimension_does_not_matter(people):
    embeddings, speakers = people
    dead = np.insert(embeddings, 4, 0.1, axis=1)
    lda = fit_preprocessing(dead, speakers, 5, length_norm=False).lda
    assert np.isfinite(lda).all() and abs(lda[4]).max() < 1e-6 * abs(lda).max()


def test_senseless_dimensions_are_named(people):
    embeddings, speakers = people
    moments = speaker_moments(embeddings, speakers, as_they_are(embeddings))
    with pytest.raises(ValueError, match=r"in 1 .. 15, got 16; there are 15 dimensions and 40 speakers"):
        fisher_lda(moments, 16)
    few = speakers < 4
    moments = speaker_moments(embeddings[few], speakers[few], as_they_are(embeddings))
    with pytest.raises(ValueError, match=r"lda_dim must lie in 1 .. 3, got 4"):
        fisher_lda(moments, 4)
    alike = embeddings[speakers]
    with pytest.raises(ValueError, match="within each speaker all are equal"):
        fit_preprocessing(alike, speakers, 3, length_norm=True)
    with pytest.raises(ValueError, match=r"lda must be \(D, d\) with D = 3"):
        Preprocessing(np.zeros(3), np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"centre must be \(D,\) and finite"):
        Preprocessing(np.zeros((3, 1)))
