"""PLDA: scores are the exact likelihood ratios, EM finds the likeliest model, files hold a whole model or none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from spkver.errors import SpkverError
from spkver.scoring.backends.lda import Preprocessing
from spkver.scoring.backends.plda import Plda, fit_plda
from spkver.scoring.metrics import equal_error_rate
from spkver.scoring.systems import EmbeddingSet, PldaRatio


def covariance(rng, dim, scale):
    """A random covariance with standard deviations within a factor of four."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return scale * basis * rng.uniform(0.25, 4, size=dim) @ basis.T


def drawn(rng, counts, mean, between, within):
    """Embeddings of the model and their speakers; ``counts`` utterances of each."""
    speakers = np.repeat(np.arange(len(counts)), counts)
    voices = rng.multivariate_normal(mean, between, size=len(counts), method="cholesky")
    noise = rng.multivariate_normal(np.zeros(len(mean)), within, size=len(speakers), method="cholesky")
    return voices[speakers] + noise, speakers


def random_model(seed, dim=5, between=1.0):
    rng = np.random.default_rng(seed)
    plain = Preprocessing(rng.normal(size=dim), None, length_norm=False)
    return Plda(plain, rng.normal(size=dim), covariance(rng, dim, between), covariance(rng, dim, 1.0))


def density(sets, model):
    """The log density of sets of utterances, one speaker each, by the full covariance of all stacked."""
    total = 0.0
    for rows in sets:
        n = len(rows)
        joint = np.kron(np.ones((n, n)), model.between) + np.kron(np.eye(n), model.within)
        total += multivariate_normal(np.tile(model.mean, n), joint).logpdf(np.ravel(rows))
    return total


def scores(model, enroll, test):
    """Log-likelihood ratios of trials by the rows and constants of both sides."""
    (left, of_left), (right, of_right) = model.rows(enroll), model.rows(test)
    return np.sum(left.astype(np.float64) * right, axis=1) + (of_left + of_right)


def processed(model, embeddings):
    return np.concatenate([rows for _, rows in model.preprocessing.chunks(np.asarray(embeddings))])


def log_likelihood(model, embeddings, speakers):
    """The log density of all, speaker by speaker, in the basis where the noise has variance 1.

    There, of n utterances, sqrt(n) times their mean has variance 1 + n psi, and the other n - 1 dimensions are noise.
    """
    psi, to_latent = eigh(model.between, model.within)
    latent = (processed(model, embeddings) - model.mean) @ to_latent
    total = 0.0
    for speaker in np.unique(speakers):
        rows = latent[speakers == speaker]
        n, mean = len(rows), rows.mean(axis=0)
        total += np.sum(n * mean**2 / (1 + n * psi) + np.log1p(n * psi)) + np.sum((rows - mean) ** 2)
    log_volume = len(psi) * np.log(2 * np.pi) + np.linalg.slogdet(model.within)[1]
    return -0.5 * (total + len(latent) * log_volume)


@pytest.fixture(scope="module")
def people():
    """300 speakers with 1 to 8 utterances of 12 dimensions, far from zero."""
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 9, size=300)
    return drawn(rng, counts, 3 + rng.normal(size=12), covariance(rng, 12, 1), covariance(rng, 12, 0.7))


# --- scores


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 7), between=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_score_is_the_log_ratio_of_the_densities_of_the_stacked_pair(seed, dim, between):
    model = random_model(seed, dim, between)
    rng = np.random.default_rng(seed)
    enroll, test = rng.normal(size=(2, 6, dim)) * np.sqrt(between + 1)
    rows = processed(model, enroll), processed(model, test)
    expected = [density([[e, t]], model) - density([[e], [t]], model) for e, t in zip(*rows)]
    np.testing.assert_allclose(scores(model, enroll, test), expected, atol=1e-6 * (1 + abs(np.array(expected)).max()))


def test_rows_and_constants_give_the_ratio_of_the_densities_after_preprocessing(people):
    plda = fit_plda(*people, lda_dim=6)
    rows, constants = plda.rows(people[0][:20])
    assert rows.dtype == np.float32 and rows.shape == (20, 6)
    assert constants.dtype == np.float64 and constants.shape == (20,)
    some = processed(plda, people[0][:20])
    for a, b in [(0, 0), (0, 1), (5, 17), (19, 3), (8, 9)]:
        expected = density([some[[a, b]]], plda) - density([some[[a]], some[[b]]], plda)
        assert rows[a] @ rows[b] + constants[a] + constants[b] == pytest.approx(expected, abs=1e-5)


def test_scores_are_symmetric_to_the_bit(people):
    voices = EmbeddingSet(people[0][:200])
    score = PldaRatio(voices, EmbeddingSet(people[0][:200]), fit_plda(*people, lda_dim=6))
    a, b = np.arange(100), np.arange(100, 200)
    assert (score(a, b) == score(b, a)).all()


def test_a_memory_map_longer_than_a_chunk_gives_the_same_rows(tmp_path):
    model = random_model(1)
    many = np.random.default_rng(1).normal(size=(40_000, 5)).astype(np.float32)
    np.save(tmp_path / "many.npy", many)
    rows, constants = model.rows(np.load(tmp_path / "many.npy", mmap_mode="r"))
    for at in (0, 16_383, 16_384, 39_999):
        alone, constant = model.rows(many[at : at + 1])
        np.testing.assert_allclose(rows[at], alone[0], atol=1e-6)
        np.testing.assert_allclose(constants[at], constant[0], atol=1e-9)


def test_dimensions_without_speakers_do_not_count():
    rng = np.random.default_rng(0)
    plain = Preprocessing(np.zeros(3), None, length_norm=False)
    model = Plda(plain, np.zeros(3), np.diag([2.0, 0, 0]), np.eye(3))
    a, b = rng.normal(size=(2, 50, 3))
    of_one = Plda(Preprocessing(np.zeros(1), None, False), np.zeros(1), np.array([[2.0]]), np.eye(1))
    np.testing.assert_allclose(scores(model, a, b), scores(of_one, a[:, :1], b[:, :1]), atol=1e-12)


def test_llr_of_data_from_the_model_is_calibrated():
    rng = np.random.default_rng(2)
    truth = random_model(3, dim=6)
    train = drawn(rng, np.full(3000, 5), truth.mean, truth.between, truth.within)
    held_out, speakers = drawn(rng, np.full(150, 4), truth.mean, truth.between, truth.within)
    plda = fit_plda(*train, length_norm=False)
    enroll, test = np.triu_indices(len(speakers), 1)
    llr = scores(plda, held_out[enroll], held_out[test])
    target = speakers[enroll] == speakers[test]
    cllr = bits(llr, target)
    least = minimize(lambda ab: bits(ab[0] * llr + ab[1], target), [1.0, 0.0], method="Nelder-Mead")
    assert 0.05 < least.fun < 0.9, "the task is neither trivial nor hopeless"
    assert cllr - least.fun < 0.01
    np.testing.assert_allclose(least.x, [1, 0], atol=0.15)


def bits(llr, target):
    """Cllr, Brümmer & du Preez 2006."""
    return (np.mean(np.logaddexp(0, -llr[target])) + np.mean(np.logaddexp(0, llr[~target]))) / (2 * np.log(2))


def test_llr_survives_any_invertible_linear_map_of_the_embeddings(people):
    embeddings, speakers = people
    rng = np.random.default_rng(4)
    linear = rng.normal(size=(12, 12)) * 10 ** rng.uniform(-1, 1, size=12)
    mapped = embeddings @ linear + 7
    plain, other = (fit_plda(rows, speakers, length_norm=False) for rows in (embeddings, mapped))
    expected = scores(plain, embeddings[:200], embeddings[200:400])
    np.testing.assert_allclose(scores(other, mapped[:200], mapped[200:400]), expected, atol=1e-6)


# --- EM


def test_known_covariances_are_recovered():
    rng = np.random.default_rng(7)
    truth = random_model(8, dim=8)
    counts = rng.integers(1, 12, size=4000)
    plda = fit_plda(*drawn(rng, counts, truth.mean, truth.between, truth.within), length_norm=False)
    mean = plda.preprocessing.centre + plda.mean
    assert np.linalg.norm(mean - truth.mean) < 4 * np.sqrt(np.trace(truth.between) / 4000)
    for found, true in ((plda.between, truth.between), (plda.within, truth.within)):
        assert np.linalg.norm(found - true) < 0.06 * np.linalg.norm(true)


def test_log_likelihood_is_that_of_the_stacked_utterances(people):
    embeddings, speakers = people
    plda = fit_plda(embeddings, speakers, lda_dim=4, iterations=2)
    rows = processed(plda, embeddings)
    expected = density([rows[speakers == speaker] for speaker in np.unique(speakers)], plda)
    np.testing.assert_allclose(log_likelihood(plda, embeddings, speakers), expected, rtol=1e-10)


@pytest.mark.parametrize("options", [{"length_norm": False}, {"length_norm": True}, {"lda_dim": 5}])
def test_log_likelihood_never_decreases(people, options):
    values = [log_likelihood(fit_plda(*people, iterations=n, **options), *people) for n in range(12)]
    assert np.diff(values).min() > -1e-9 * abs(values[-1])
    assert values[-1] > values[0]


def test_em_reaches_the_closed_form_of_equal_counts():
    rng = np.random.default_rng(9)
    truth = random_model(10, dim=4)
    embeddings, speakers = drawn(rng, np.full(400, 5), truth.mean, truth.between, truth.within)
    plda = fit_plda(embeddings, speakers, iterations=200, length_norm=False)
    # The likeliest covariances of a balanced one-way layout (Searle, Casella & McCulloch, "Variance components",
    # 1992).
    grouped = embeddings.reshape(400, 5, 4)
    means = grouped.mean(axis=1)
    offset = (grouped - means[:, None]).reshape(-1, 4)
    within = offset.T @ offset / (400 * 4)
    between = np.cov(means.T, bias=True) - within / 5
    np.testing.assert_allclose(plda.within, within, atol=1e-8)
    np.testing.assert_allclose(plda.between, between, atol=1e-8)
    np.testing.assert_allclose(plda.preprocessing.centre + plda.mean, embeddings.mean(axis=0), atol=1e-8)


def test_em_reaches_the_likeliest_model_of_unequal_counts():
    rng = np.random.default_rng(11)
    embeddings, speakers = drawn(rng, rng.integers(1, 7, size=60), np.ones(1), np.eye(1), np.eye(1))
    plda = fit_plda(embeddings, speakers, iterations=400, length_norm=False)

    def cost(parameters):
        mean, between, within = parameters[:1], np.exp(parameters[1]), np.exp(parameters[2])
        model = Plda(plda.preprocessing, mean, np.array([[between]]), np.array([[within]]))
        rows = processed(model, embeddings)
        return -density([rows[speakers == speaker] for speaker in range(60)], model)

    best = minimize(cost, [0, 0, 0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    np.testing.assert_allclose([plda.mean[0], plda.between[0, 0], plda.within[0, 0]],
                               [best.x[0], *np.exp(best.x[1:])], atol=2e-5)  # fmt: skip


def test_em_leaves_a_start_at_which_the_speakers_seem_alike():
    # Many speakers with one utterance each spread less than their noise alone would, so the moment estimate of the
    # variance between speakers is below zero; two speakers with many utterances show that it is not.
    rng = np.random.default_rng(0)
    singles, noise = 0.5 * rng.normal(size=40), rng.normal(size=(2, 200))
    embeddings = np.concatenate([singles, noise[0] - 0.6, noise[1] + 0.6])[:, None]
    speakers = np.concatenate([np.arange(40), np.repeat([40, 41], 200)])
    plda = fit_plda(embeddings, speakers, iterations=500, length_norm=False)
    assert plda.between[0, 0] > 0.02
    without = Plda(plda.preprocessing, plda.mean, np.zeros((1, 1)), plda.within)
    assert log_likelihood(plda, embeddings, speakers) > log_likelihood(without, embeddings, speakers) + 10


def test_neither_order_nor_names_of_speakers_matter(people):
    embeddings, speakers = people
    plda = fit_plda(embeddings, speakers)
    order = np.random.default_rng(0).permutation(len(speakers))
    names = [f"id{(7 * speaker) % 1000}" for speaker in speakers[order]]
    other = fit_plda(embeddings[order], names)
    np.testing.assert_allclose(other.between, plda.between, atol=1e-9)
    np.testing.assert_allclose(other.within, plda.within, atol=1e-9)


def test_fewer_speakers_than_dimensions_leave_directions_without_speakers():
    rng = np.random.default_rng(12)
    embeddings, speakers = drawn(rng, np.full(6, 30), np.zeros(10), np.eye(10), np.eye(10))
    plda = fit_plda(embeddings, speakers, length_norm=False)
    variances = np.linalg.eigvalsh(plda.between)
    assert variances[4] < 1e-9 and variances[5] > 0.1
    assert np.isfinite(scores(plda, embeddings[:90], embeddings[90:])).all()


# --- adaptation


def test_adaptation_to_the_models_own_data_changes_little():
    rng = np.random.default_rng(13)
    truth = random_model(14, dim=6)
    plda = fit_plda(*drawn(rng, np.full(3000, 5), truth.mean, truth.between, truth.within), length_norm=False)
    more, _ = drawn(rng, np.full(20_000, 1), truth.mean, truth.between, truth.within)
    other = plda.adapted(more, 0.5, 0.5)
    for name in ("between", "within"):
        before, after = getattr(plda, name), getattr(other, name)
        assert np.linalg.norm(after - before) < 0.06 * np.linalg.norm(before)
    a, b = more[:2000], more[2000:4000]
    assert np.std(scores(other, a, b) - scores(plda, a, b)) < 0.15 * np.std(scores(plda, a, b))


def test_adaptation_shares_out_the_excess_and_takes_nothing_away():
    rng = np.random.default_rng(15)
    plda = random_model(16, dim=6)
    total = plda.between + plda.within
    stretch = np.diag([3.0, 2, 1.5, 0.5, 0.3, 1])
    foreign = rng.multivariate_normal(plda.mean + 9, stretch @ total @ stretch, size=5000)
    other = plda.adapted(foreign, 0.75, 0.25)
    to_within, to_between = other.within - plda.within, other.between - plda.between
    np.testing.assert_allclose(to_within, 3 * to_between, atol=1e-9)
    assert np.linalg.eigvalsh(to_between).min() > -1e-12
    # Nowhere is the adapted total below that of the foreign data, where the model's was not above it.
    found = np.cov(foreign.T, bias=True)
    assert np.linalg.eigvalsh(other.between + other.within - found).min() > -1e-9
    np.testing.assert_allclose(other.preprocessing.centre, foreign.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(other.mean, 0, atol=1e-12)


def test_adaptation_is_kaldis_computation():
    rng = np.random.default_rng(17)
    plda = random_model(18, dim=5)
    foreign = rng.normal(size=(300, 5)) * [1, 2, 3, 0.1, 5]
    # Step by step as in Kaldi's plda.cc, without its mean_diff_scale: covariances in the twice projected space.
    whitening = np.linalg.inv(np.linalg.cholesky(plda.between + plda.within))
    variances, directions = np.linalg.eigh(whitening @ np.cov(foreign.T, bias=True) @ whitening.T)
    forth = directions.T @ whitening
    excess = np.diag(np.maximum(variances - 1, 0))
    back = np.linalg.inv(forth)
    other = plda.adapted(foreign, 0.3, 0.7)
    for name, share in (("within", 0.3), ("between", 0.7)):
        expected = back @ (forth @ getattr(plda, name) @ forth.T + share * excess) @ back.T
        np.testing.assert_allclose(getattr(other, name), expected, atol=1e-9)


@pytest.mark.parametrize("length_norm", [False, True])
def test_adaptation_to_another_noise_and_place_lowers_the_eer(length_norm):
    rng = np.random.default_rng(19)
    dim = 20
    between, within = np.diag(np.geomspace(2, 0.2, dim)), 0.7 * np.eye(dim)
    plda = fit_plda(*drawn(rng, np.full(2000, 5), np.zeros(dim), between, within), length_norm=length_norm)
    loud = within * np.where(np.arange(dim) % 2, 12, 1)
    place = np.full(dim, 1.5)
    unlabelled, _ = drawn(rng, np.full(3000, 1), place, between, loud)
    held_out, speakers = drawn(rng, np.full(200, 4), place, between, loud)
    enroll, test = np.triu_indices(len(speakers), 1)
    labels = (speakers[enroll] == speakers[test]).astype(int)

    def eer(model):
        rows, constants = model.rows(held_out)
        return equal_error_rate((rows @ rows.T + constants + constants[:, None])[enroll, test], labels)[0]

    before, after = eer(plda), eer(plda.adapted(unlabelled, 0.75, 0.25))
    only_centred = eer(plda.adapted(unlabelled, 0, 0))
    assert after < (0.9 if length_norm else 0.6) * before
    assert after < (0.9 if length_norm else 0.6) * only_centred


# --- files


@pytest.mark.parametrize("options", [{}, {"lda_dim": 5}, {"lda_dim": 5, "length_norm": False}])
def test_a_saved_model_scores_to_the_bit_as_before(tmp_path, people, options):
    plda = fit_plda(*people, **options)
    plda.save(tmp_path / "plda.safetensors")
    again = Plda.load(tmp_path / "plda.safetensors")
    a, b = people[0][:50], people[0][50:100]
    assert (scores(again, a, b) == scores(plda, a, b)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["plda.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros(3)}, r"mean must have shape \(12,\), has \(3,\)"),
        ({"mean": np.full(12, np.nan)}, "mean holds NaN or an infinity"),
        ({"mean": np.zeros(12, dtype=np.float32)}, "'mean' is of the wrong type"),
        ({"within": np.zeros((12, 12))}, "within is singular"),
        ({"within": np.triu(np.ones((12, 12)))}, "within is not symmetric"),
        ({"between": np.diag([1.0] * 11 + [-0.1])}, "between has a negative variance"),
        ({"between": np.eye(11)}, r"between must have shape \(12, 12\), has \(11, 11\)"),
        ({"centre": np.full(12, np.inf)}, "centre must be .* finite"),
        ({"lda": np.zeros((11, 12))}, "lda must be"),
        ({"lda": np.full((12, 12), np.nan)}, "lda holds NaN"),
        ({"length_norm": np.ones(2, dtype=bool)}, "'length_norm' is of the wrong type"),
        ({"psi": np.ones(12)}, "which is no PLDA model"),
    ],
)
def test_a_file_that_holds_no_model_is_named(tmp_path, people, change, message):
    path = tmp_path / "plda.safetensors"
    fit_plda(*people).save(path)
    save_file(load_file(path) | change, path)
    with pytest.raises(SpkverError, match=message) as caught:
        Plda.load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_missing_cut_or_foreign_file_is_named(tmp_path, people):
    path = tmp_path / "plda.safetensors"
    with pytest.raises(SpkverError, match=r"plda.safetensors: cannot be read \(No such file"):
        Plda.load(path)
    fit_plda(*people).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SpkverError, match=r"plda.safetensors: is not a whole safetensors file"):
        Plda.load(path)
    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(SpkverError, match=r"holds \['weight'\], which is no PLDA model"):
        Plda.load(path)
    with pytest.raises(SpkverError, match=r"plda.safetensors/x: cannot be written"):
        fit_plda(*people).save(path / "x")


# --- senseless input


def test_senseless_training_data_are_named(people):
    embeddings, speakers = people
    with pytest.raises(ValueError, match="at least two speakers, got 1"):
        fit_plda(embeddings, np.zeros(len(embeddings)))
    with pytest.raises(ValueError, match="at least two speakers, got 0"):
        fit_plda(np.empty((0, 3)), [])
    with pytest.raises(ValueError, match="each has one"):
        fit_plda(embeddings, np.arange(len(embeddings)))
    with pytest.raises(ValueError, match="speakers must be an id for each of 5 embeddings"):
        fit_plda(embeddings[:5], speakers[:4])
    with pytest.raises(ValueError, match=r"embeddings must be \(N, D\)"):
        fit_plda(embeddings[:, 0], speakers)
    with pytest.raises(ValueError, match="iterations must be 0 or more, got -1"):
        fit_plda(embeddings, speakers, iterations=-1)
    for dim in (0, 13):
        with pytest.raises(ValueError, match=rf"lda_dim must lie in 1 .. 12, got {dim}"):
            fit_plda(embeddings, speakers, lda_dim=dim)
    few = speakers < 5
    with pytest.raises(ValueError, match=r"lda_dim must lie in 1 .. 4, got 5"):
        fit_plda(embeddings[few], speakers[few], lda_dim=5)
    for wrong in (np.nan, np.inf):
        broken = embeddings.copy()
        broken[17, 3] = wrong
        with pytest.raises(ValueError, match="row 17 is NaN or infinite"):
            fit_plda(broken, speakers)


def test_a_singular_covariance_is_named_with_its_rank(people):
    embeddings, speakers = people
    twice = np.concatenate([embeddings, embeddings[:, :3] - 2 * embeddings[:, 3:6]], axis=1).astype(np.float32)
    with pytest.raises(ValueError, match="differ in 12 of 15 dimensions only"):
        fit_plda(twice, speakers, length_norm=False)
    assert np.isfinite(scores(fit_plda(twice, speakers, lda_dim=12), twice[:9], twice[9:18])).all()
    with pytest.raises(ValueError, match="differ in 0 of 12 dimensions only"):
        fit_plda(embeddings[speakers], speakers, length_norm=False)


def test_senseless_embeddings_to_score_are_named(people):
    embeddings, _ = people
    plda = fit_plda(*people)
    with pytest.raises(ValueError, match=r"embeddings must be \(N, 12\) numbers, got float64 \(2, 11\)"):
        plda.rows(np.ones((2, 11)))
    with pytest.raises(ValueError, match="got <U1"):
        scores(plda, np.full((2, 12), "x"), embeddings[:2])
    with pytest.raises(ValueError, match="row 1 is NaN"):
        plda.rows(np.array([np.ones(12), np.full(12, np.nan)]))
    with pytest.raises(ValueError, match="row 0 lies on the mean"):
        plda.rows(plda.preprocessing.centre[None])
    rows, constants = plda.rows(embeddings[:0])
    assert rows.shape == (0, 12) and constants.shape == (0,)


def test_senseless_adaptation_is_named(people):
    embeddings, _ = people
    plda = fit_plda(*people)
    with pytest.raises(ValueError, match=r"dimensions \(12\), got 12"):
        plda.adapted(embeddings[:12], 0.5, 0.5)
    for shares in ((-0.1, 0.5), (np.nan, 0.5)):
        with pytest.raises(ValueError, match="within_scale must lie between 0 and 1"):
            plda.adapted(embeddings, *shares)
    with pytest.raises(ValueError, match=r"between_scale must lie between 0 and 1, got 1\.5"):
        plda.adapted(embeddings, 0.5, 1.5)
