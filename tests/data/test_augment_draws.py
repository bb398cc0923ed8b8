"""What is drawn for a crop: how often, from where, within which ranges; all of it from one generator."""

import numpy as np
import pytest
import soundfile

from spkver.config.schema import Augment
from spkver.data.augment_draws import AugmentDraws, Drawn, babble
from spkver.data.recordings import Place
from spkver.errors import SpkverError

RATE = 16000
N = 800


def voice(rng, n_samples, not_speaker):
    return np.full(n_samples, rng.random(), np.float32)


def draws_of(**sections):
    """Of an ``augment`` section whose keys are as of ``noise_probability=1.0``."""
    augment = {}
    for key, value in sections.items():
        section, name = key.split("_", 1)
        augment.setdefault(section, {})[name] = value
    return AugmentDraws(Augment(**augment), RATE, N, voice)


@pytest.fixture
def noise_list(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", 0.2 * rng.standard_normal(RATE), RATE)
    (tmp_path / "noise.scp").write_text("a a.wav\nb b.wav\n")
    return str(tmp_path / "noise.scp")


def drawn_by(draws, n=600):
    return [draws(np.random.default_rng(seed), "anna") for seed in range(n)]


def share(flags):
    return np.mean(list(flags))


def test_nothing_is_drawn_at_probability_zero():
    assert {drawn._replace(snr_db=0.0) for drawn in drawn_by(draws_of(), 20)} == {Drawn()}


def test_each_kind_comes_as_often_as_asked_and_noise_never_with_babble(noise_list):
    draws = draws_of(
        noise_probability=0.5,
        noise_list=noise_list,
        babble_probability=0.3,
        reverb_probability=0.4,
        gain_probability=0.2,
        clipping_probability=0.6,
        telephone_probability=0.3,
        codec_probability=0.7,
    )
    drawn = drawn_by(draws)
    # Babble is a sum of constants here, and noise is not.
    babbled = [each.added is not None and np.ptp(each.added) == 0 for each in drawn]
    found = {
        "noise": share(each.added is not None and not steady for each, steady in zip(drawn, babbled)),
        "babble": share(babbled),
        "reverb": share(each.response is not None for each in drawn),
        "gain": share(each.gain_db is not None for each in drawn),
        "clipping": share(each.clipped_share is not None for each in drawn),
        "telephone": share(each.telephone for each in drawn),
        "codec": share(each.codec is not None for each in drawn),
    }
    # Three standard deviations of 600 draws are 0.061.
    asked = {"noise": 0.5, "babble": 0.3, "reverb": 0.4, "gain": 0.2, "clipping": 0.6, "telephone": 0.3, "codec": 0.7}
    assert found == pytest.approx(asked, abs=0.061)
    # One does not go with the other: of those that are clipped as many have a gain.
    gains = share(each.gain_db is not None for each in drawn if each.clipped_share is not None)
    assert gains == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize(
    "kind, low, high, value",
    [
        ("noise_snr_db", 0, 15, lambda drawn: drawn.snr_db),
        ("babble_snr_db", 13, 20, lambda drawn: drawn.snr_db),
        ("gain_decibels", -20, 6, lambda drawn: drawn.gain_db),
        ("clipping_share", 0.001, 0.1, lambda drawn: drawn.clipped_share),
        ("codec_kbit_per_second", 12, 32, lambda drawn: drawn.codec.kbit_per_second),
        ("reverb_rt60_seconds", 0.1, 0.6, lambda drawn: len(drawn.response) / RATE),
    ],
)
def test_values_lie_in_their_ranges_and_reach_both_ends(noise_list, kind, low, high, value):
    lists = {"noise_list": noise_list} if kind.startswith("noise") else {}
    draws = draws_of(**{f"{kind.split('_')[0]}_probability": 1.0}, **lists)
    values = [value(drawn) for drawn in drawn_by(draws, 60)]
    assert low <= min(values) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < max(values) <= high
    other = draws_of(**{f"{kind.split('_')[0]}_probability": 1.0, kind: [float(high), float(high)]}, **lists)
    assert value(other(np.random.default_rng(0), "anna")) == pytest.approx(high, rel=1e-4)


def test_codecs_are_those_that_are_named():
    both = {drawn.codec.name for drawn in drawn_by(draws_of(codec_probability=1.0), 30)}
    one = {drawn.codec.name for drawn in drawn_by(draws_of(codec_probability=1.0, codec_formats=["mp3"]), 30)}
    assert (both, one) == ({"opus", "mp3"}, {"mp3"})


def test_a_generator_draws_the_same_whatever_was_drawn_before_and_whatever_is_kept(noise_list):
    words = {"noise_probability": 1.0, "noise_list": noise_list, "reverb_probability": 0.5, "codec_probability": 0.5}
    one, two = draws_of(**words), draws_of(**words)
    samples = two.noises.read(10)
    drawn = [one(np.random.default_rng(seed), "anna") for seed in range(20)]
    for seed in reversed(range(20)):
        again = two(np.random.default_rng(seed), "anna")
        assert isinstance(again.added, Place)
        begin, length = again.added
        np.testing.assert_array_equal(samples[begin : begin + length].numpy(), drawn[seed].added)
        assert again.snr_db == drawn[seed].snr_db and again.codec == drawn[seed].codec
        assert (again.response is None) == (drawn[seed].response is None)
        if again.response is not None:
            np.testing.assert_array_equal(again.response, drawn[seed].response)


def test_what_a_recording_suffers_changes_no_draw_of_rooms_and_noises(noise_list):
    words = {"noise_probability": 0.6, "noise_list": noise_list, "babble_probability": 0.4, "reverb_probability": 0.5}
    faults = {f"{kind}_probability": 1.0 for kind in ("gain", "clipping", "telephone", "codec")}
    for plain, faulty in zip(drawn_by(draws_of(**words), 20), drawn_by(draws_of(**words, **faults), 20)):
        np.testing.assert_array_equal(plain.added, faulty.added)
        assert plain.snr_db == faulty.snr_db
        assert (plain.response is None) == (faulty.response is None)
        assert faulty.gain_db is not None and faulty.codec is not None and faulty.telephone


def test_babble_sums_other_speakers_within_the_range():
    asked = []

    def draw(rng, n_samples, not_speaker):
        asked.append(not_speaker)
        return np.full(n_samples, rng.random(), np.float32)

    counts = set()
    for seed in range(60):
        asked.clear()
        crowd = babble(np.random.default_rng(seed), 100, "anna", draw, (3, 5))
        rng = np.random.default_rng(seed)
        rng.integers(3, 5, endpoint=True)
        np.testing.assert_allclose(crowd, sum(rng.random() for _ in asked), rtol=1e-5)
        assert crowd.shape == (100,) and set(asked) == {"anna"}
        counts.add(len(asked))
    assert counts == {3, 4, 5}


def test_measured_responses_are_taken_from_the_list(tmp_path):
    response = np.eye(1, 900, 300, dtype=np.float32)[0]
    soundfile.write(tmp_path / "r.wav", response, RATE, subtype="FLOAT")
    (tmp_path / "rir.scp").write_text("r r.wav\n")
    draws = draws_of(reverb_probability=1.0, reverb_list=str(tmp_path / "rir.scp"))
    np.testing.assert_array_equal(draws(np.random.default_rng(0), "anna").response, response)


def test_a_configuration_that_cannot_work_is_refused(noise_list):
    with pytest.raises(SpkverError, match=r"augment\.noise\.list"):
        draws_of(noise_probability=0.5)
    with pytest.raises(SpkverError, match="exceed 1 together"):
        draws_of(noise_probability=0.6, babble_probability=0.6, noise_list=noise_list)
