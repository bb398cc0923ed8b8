"""Augmentation by batches against NumPy and SciPy, one crop at a time: on a CPU, and on a GPU where there is one."""

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from spkver.config.schema import Augment
from spkver.data import augment, resampling
from spkver.data.augment import TELEPHONE_RATE, Augmenter, add_at_snr, clip, reverberate, telephone
from spkver.data.augment_draws import AugmentDraws, Drawn
from spkver.data.crop_batch import Crop, joined
from spkver.data.resampling import low_pass, speed_ratio
from spkver.data.shared_memory import pack
from spkver.errors import SpkverError
from spkver.models.device import full_float32

RATE = 16000
N = 8000


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch sees (SPKVER_TEST_GPU=1)")
    with full_float32():
        yield torch.device(request.param)


def voice(seed: int, n_samples: int = N) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(n_samples) * np.sin(np.arange(n_samples) / 900)).astype(np.float32)


def voices(n: int, n_samples: int = N) -> np.ndarray:
    return np.stack([voice(seed, n_samples) for seed in range(n)])


def power(samples):
    return np.mean(np.asarray(samples, np.float64) ** 2, axis=-1)


def on(device, *arrays):
    return [torch.as_tensor(array).to(device) for array in arrays]


# What one crop gets, in float64.


def slow_snr(speech, noise, snr_db):
    return speech + noise * np.sqrt(power(speech) / power(noise) / 10 ** (snr_db / 10))


def slow_reverb(speech, response):
    peak = np.argmax(np.abs(response))
    wet = scipy.signal.fftconvolve(speech.astype(np.float64), response)[peak : peak + len(speech)]
    return wet * np.sqrt(power(speech) / power(wet))


def slow_speed(samples, factor, n):
    up, down = speed_ratio(factor)
    taps = low_pass(up, down).astype(np.float64)
    return (scipy.signal.resample_poly(samples.astype(np.float64), up, down, window=taps) if up != down else samples)[
        :n
    ]


def slow_clip(speech, share):
    level = np.sort(np.abs(speech))[-round(share * len(speech))]
    return np.clip(speech, -level, level)


def mu_law(samples):
    """Companded, in 255 steps, expanded: ITU-T G.711's formula with mu = 255."""
    compressed = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log1p(255)
    steps = np.floor((compressed + 1) / 2 * 255 + 0.5) / 255 * 2 - 1
    return np.sign(steps) * ((1 + 255.0) ** np.abs(steps) - 1) / 255


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(-10, 30), st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_the_snr_is_reached(seed, wanted, speech_gain, noise_gain):
    speech, noise = (np.float32(gain) * voice(seed + turn, 4000) for turn, gain in enumerate((speech_gain, noise_gain)))
    mixture = add_at_snr(*on("cpu", speech[None], noise[None], [wanted]))[0].numpy()
    assert mixture.dtype == np.float32
    reached = 10 * np.log10(power(speech) / power(mixture.astype(np.float64) - speech))
    assert reached == pytest.approx(wanted, abs=0.1)


def test_silent_noise_leaves_the_speech_and_silent_speech_stays_silent(device):
    speech = voice(0)
    rows, noise = np.stack([speech, np.zeros(N), speech]), np.stack([np.zeros(N), speech, 1e-6 * speech])
    mixture = add_at_snr(*on(device, rows.astype(np.float32), noise.astype(np.float32), [0.0, 0.0, 0.0])).cpu().numpy()
    np.testing.assert_array_equal(mixture, rows.astype(np.float32))


def test_noise_is_added_as_one_crop_at_a_time(device):
    speech, noise, snr = voices(5), voices(10)[5:], np.array([-5, 0, 3, 10, 20], np.float32)
    mixture = add_at_snr(*on(device, speech, noise, snr)).cpu().numpy()
    expected = [slow_snr(*row) for row in zip(speech, noise, snr)]
    np.testing.assert_allclose(mixture, np.stack(expected), atol=1e-6)


def test_reverberation_keeps_length_power_and_timing(device):
    speech = voices(3)
    responses = np.zeros((3, 4000), np.float32)
    # The direct path of a measured response comes after a delay, and may be negative.
    for row, peak in enumerate((137, 0, 999)):
        responses[row, peak] = -0.8 if row == 2 else 0.8
        responses[row, [20, 1500]] = 0.1, -0.3
    wet = reverberate(*on(device, speech, responses), [137, 0, 999]).cpu().numpy()
    assert wet.shape == speech.shape and wet.dtype == np.float32
    np.testing.assert_allclose(power(wet), power(speech), rtol=1e-4)
    np.testing.assert_allclose(wet, np.stack([slow_reverb(*row) for row in zip(speech, responses)]), atol=1e-6)
    for before, after in zip(speech, wet):
        lags = np.correlate(after, before[200:-200], mode="valid")
        assert np.argmax(np.abs(lags)) == 200


def test_a_response_that_is_only_a_direct_path_changes_nothing(device):
    speech = np.stack([voice(2), np.zeros(N, np.float32)])
    responses = np.tile(np.eye(1, 500, 80, dtype=np.float32), (2, 1))
    np.testing.assert_allclose(reverberate(*on(device, speech, responses), [80, 80]).cpu(), speech, atol=1e-7)


def test_the_share_of_clipped_samples_is_as_asked(device):
    speech = voices(3)
    counts = [8, 80, 800]
    clipped = clip(*on(device, speech, counts), 800).cpu().numpy()
    for before, after, count in zip(speech, clipped, counts):
        level = np.abs(after).max()
        assert (np.abs(after) == level).sum() == count
        np.testing.assert_array_equal(after, np.clip(before, -level, level))
        assert np.abs(before).max() > level


def test_a_telephone_leaves_its_band(device):
    """White noise, of which a telephone leaves what lies between 300 and 3,400 Hz and the noise of its 8 bits."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 2 * RATE)).astype(np.float32)
    heard = telephone(*on(device, noise), RATE, (300.0, 3400.0)).cpu().numpy()
    assert heard.shape == noise.shape
    hz, before = scipy.signal.welch(noise, RATE, nperseg=1024)
    after = 10 * np.log10(scipy.signal.welch(heard, RATE, nperseg=1024)[1] / before).mean(0)
    inside = (hz > 450) & (hz < 3250)
    assert np.abs(after[inside]).max() < 1.0
    assert after[(hz > 20) & (hz < 150)].max() < -30
    assert after[(hz > 3600) & (hz < 3900)].max() < -30
    assert after[hz > 4300].max() < -50
    lags = np.correlate(heard[0], noise[0, 100:-100], mode="valid")
    assert np.argmax(lags) == 100


def test_the_error_of_mu_law_is_that_of_its_formula(device):
    """At 8 kHz and with a band that holds all but the lowest frequencies, nothing but 8 bits changes a signal."""
    n = 16000
    tone = np.exp(np.linspace(-6, -0.1, n)) * np.sin(np.arange(n) * 1.7)
    speech = tone.astype(np.float32)[None]
    heard = telephone(*on(device, speech), TELEPHONE_RATE, (0.0, 4000.0)).cpu().numpy()[0]
    inner = slice(300, -300)  # where the filter meets no edge
    assert np.mean(np.abs(heard - mu_law(speech[0]))[inner] < 1e-4) > 0.98  # a value at a step's edge may fall beyond
    error = np.abs(heard - speech[0])[inner]
    # Half a step of 2 / 255 of the companded signal, by the slope of the expansion at its upper edge.
    bound = np.log(256) / 255 * (1 / 255 + np.abs(speech[0])[inner]) * 256 ** (1 / 255)
    assert (error < bound + 1e-4).all()
    # Uniform within a step: its square is a third of that of half a step.
    assert np.mean(error**2) == pytest.approx(np.mean(bound**2) / 3, rel=0.1)


SPEEDS = [1.0, 0.9, 1.1]
EVERYTHING = {
    "speed_factors": SPEEDS,
    "noise": {"probability": 0.5},
    "babble": {"probability": 0.3},
    "reverb": {"probability": 0.6},
    "gain": {"probability": 0.5},
    "clipping": {"probability": 0.5},
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Noises and responses of several lengths, of which the longest does not fit in 0.3 MB."""
    folder = tmp_path_factory.mktemp("lists")
    rng = np.random.default_rng(5)
    for kind, lengths in (("noise", (3000, 9000, 20000, 60000)), ("room", (700, 2500, 6000, 30000))):
        for n in lengths:
            samples = 0.1 * rng.standard_normal(n) * (1 if kind == "noise" else np.exp(-np.arange(n) / (n / 9)))
            samples[n // 20] += 0.7 * (kind == "room")
            soundfile.write(folder / f"{kind}{n}.wav", samples, RATE, subtype="PCM_16")
        (folder / kind).write_text("".join(f"{n} {kind}{n}.wav\n" for n in lengths))
    return {kind: str(folder / kind) for kind in ("noise", "room")}


@pytest.fixture(params=["simulated rooms", "lists of rooms"])
def draws(request, lists):
    section = {**EVERYTHING, "noise": {"probability": 0.5, "list": lists["noise"]}, "recordings_megabytes": 0.3}
    if request.param.startswith("lists"):
        section["reverb"] = {"probability": 0.6, "list": lists["room"]}
    return AugmentDraws(Augment(**section), RATE, N, lambda rng, n, _: voice(int(rng.integers(1000)), n))


def crops_of(draws, n, with_telephone=False):
    """Crops as a data worker reads them, every other one in 16 bits."""
    crops = []
    for row in range(n):
        samples = voice(100 + row, int(np.ceil(N * SPEEDS[row % 3])) + 1)
        if row % 2:
            samples = (samples * 32768).astype(np.int16)
        drawn = draws(np.random.default_rng(row), "anna")
        drawn = drawn._replace(telephone=with_telephone and row % 4 == 0)
        crops.append(Crop(samples, row, row % 5, SPEEDS[row % 3], drawn))
    return crops


def slow(crop, kept):
    """The reference: what was drawn for a crop, one thing after another."""

    def samples_of(wave):
        return wave if isinstance(wave, np.ndarray) else kept[wave.begin : wave.begin + wave.length].numpy()

    samples = crop.samples / 32768 if crop.samples.dtype == np.int16 else crop.samples
    samples, drawn = slow_speed(samples, crop.speed_factor, N), crop.drawn
    if drawn.response is not None:
        samples = slow_reverb(samples, drawn.response)
    if drawn.added is not None:
        samples = slow_snr(samples, drawn.added, drawn.snr_db)
    if drawn.gain_db is not None:
        samples = samples * 10 ** (drawn.gain_db / 20)
    if drawn.clipped_share is not None:
        samples = slow_clip(samples, drawn.clipped_share)
    return samples


def test_a_batch_is_what_its_crops_are_one_at_a_time(draws, device):
    with_arrays = crops_of(draws, 24)  # before anything is kept, samples are drawn themselves
    augmenter = Augmenter(draws, device)
    crops = crops_of(draws, 24)
    if draws.rooms is not None:
        assert 0 < len(draws.rooms.kept) < 4 and 0 < len(draws.noises.kept) < 4
    batch = pack(joined(crops, N)).unpacked(device)
    waveforms, labels, formants = augmenter(batch)
    assert waveforms.device.type == labels.device.type == device.type
    assert waveforms.shape == (24, N) and waveforms.dtype == torch.float32
    assert labels.tolist() == list(range(24)) and formants.tolist() == [row % 5 for row in range(24)]
    expected = np.stack([slow(crop, None) for crop in with_arrays])
    np.testing.assert_allclose(waveforms.cpu(), expected, atol=1e-5)
    # .. of which each operation had a part.
    for field in ("response", "added", "gain_db", "clipped_share"):
        assert 3 < sum(getattr(crop.drawn, field) is not None for crop in crops) < 24


def test_a_crop_does_not_depend_on_its_batch_mates(draws, device):
    augmenter = Augmenter(draws, device)
    crops = crops_of(draws, 16, with_telephone=True)
    together = augmenter(pack(joined(crops, N)).unpacked(device))[0]
    for some in ([3], [0, 8, 5], list(range(15, -1, -1))):
        chosen = augmenter(pack(joined([crops[row] for row in some], N)).unpacked(device))[0]
        wired = torch.tensor([crops[row].drawn.telephone for row in some])
        error = (chosen - together[some]).abs().amax(1).cpu()
        assert (error[~wired] < 1e-6).all()
        # A value that rounding moves over the edge of one of the 8 bits' steps moves by that step, alone.
        moved = ((chosen - together[some]).abs() > 1e-6).float().mean(1).cpu()
        assert (moved[wired] < 0.02).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees (SPKVER_TEST_GPU=1)")
def test_a_gpu_gives_what_a_cpu_does_to_a_ten_thousandth_of_full_scale(draws):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    on_cpu, on_gpu = Augmenter(draws, cpu), Augmenter(draws, gpu)
    batch = pack(joined(crops_of(draws, 32), N))
    with full_float32():
        here, there = on_cpu(batch.unpacked(cpu))[0], on_gpu(batch.unpacked(gpu))[0].cpu()
    torch.testing.assert_close(there, here, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [1, 12])
def test_nothing_waits_for_a_gpu_and_nothing_is_left_on_the_cpu(draws, n):
    """By tensors of which shape and device alone are known: asking for a value, or mixing devices, fails."""
    augmenter = Augmenter(draws, torch.device("cpu"))
    packed = pack(joined(crops_of(draws, n, with_telephone=True), N))
    gpu = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name in {"_rooms", "_noises"} & set(vars(augmenter)):
            setattr(augmenter, name, getattr(augmenter, name).to(gpu))
        waveforms, labels, formants = augmenter(packed.unpacked(gpu))
        with pytest.raises(DataDependentOutputException):
            waveforms.max().item()
    for kept in (resampling._weights_on, augment._band_pass):  # tensors without values
        kept.cache_clear()
    assert waveforms.shape == (n, N)
    assert [part.device.type for part in (waveforms, labels, formants)] == ["cuda"] * 3


def test_the_level_changes_by_the_gain():
    draws = AugmentDraws(Augment(), RATE, N, None)
    crops = [Crop(voice(0, N + 1), 0, 0, 1.0, Drawn(gain_db=gain)) for gain in (-20.0, None, 6.0)]
    waveforms = Augmenter(draws, torch.device("cpu"))(joined(crops, N))[0].numpy()
    decibels = 10 * np.log10(power(waveforms) / power(voice(0, N + 1)[:N]))
    assert decibels == pytest.approx([-20, 0, 6], abs=1e-4)
    np.testing.assert_array_equal(waveforms[1], voice(0, N + 1)[:N])


def test_what_was_read_is_not_changed():
    crops = [Crop(voice(0, N + 1), 0, 0, 1.0, Drawn(gain_db=-3.0, clipped_share=0.1, telephone=True))]
    before = crops[0].samples.copy()
    draws = AugmentDraws(Augment(), RATE, N, None)
    Augmenter(draws, torch.device("cpu"))(joined(crops, N))
    np.testing.assert_array_equal(crops[0].samples, before)


def test_a_sample_rate_without_a_way_to_a_telephone_is_refused():
    draws = AugmentDraws(Augment(telephone={"probability": 0.1}), 22051, N, None)
    with pytest.raises(SpkverError, match=r"augment\.telephone\.probability is 0\.1, but .* data\.sample_rate 22051"):
        Augmenter(draws, torch.device("cpu"))
    Augmenter(AugmentDraws(Augment(), 22051, N, None), torch.device("cpu"))


def test_real_noise_is_mixed_into_real_speech(speechocean762, esc10):
    path = next((speechocean762 / "WAVE").glob("*/*.ogg"))
    speech, _ = soundfile.read(path, dtype="float32")
    section = Augment(noise={"probability": 1.0, "list": str(esc10 / "wav.scp")}, recordings_megabytes=1.0)
    draws = AugmentDraws(section, RATE, len(speech) - 1, None)
    augmenter = Augmenter(draws, torch.device("cpu"))
    crops = [Crop(speech, 0, 0, 1.0, draws(np.random.default_rng(seed), "anna")) for seed in range(20)]
    mixtures = augmenter(joined(crops, len(speech) - 1))[0].numpy()
    assert np.isfinite(mixtures).all()
    speech = speech[:-1]
    for crop, mixture in zip(crops, mixtures):
        # Some clips are digital silence in places; such a crop leaves the speech as it was.
        if not np.array_equal(mixture, speech):
            reached = 10 * np.log10(power(speech) / power(mixture.astype(np.float64) - speech))
            assert reached == pytest.approx(crop.drawn.snr_db, abs=0.1)
