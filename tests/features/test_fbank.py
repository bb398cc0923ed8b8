"""Fbank against torchaudio on real speech, normalisation and masks against their definitions."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.compliance import kaldi

from spkver import native
from spkver.data.resampling import speed
from spkver.errors import SpkverError
from spkver.features import Fbank, SpecAugment, mean_normalise
from spkver.features.mel_bank import _stretched

needs_kernels = pytest.mark.skipif(not native.AVAILABLE, reason="needs the kernels of spkver.native")


@pytest.fixture(scope="module")
def speech(speechocean762) -> list[torch.Tensor]:
    """Six utterances of six speakers, (n_samples,) at 16 kHz."""
    lines = (speechocean762 / "train" / "wav.scp").read_text().splitlines()[::400][:6]
    paths = [speechocean762 / line.split()[1] for line in lines]
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]


def by_torchaudio(waveform, sample_rate=16000, window="hamming", n_mels=80, **options):
    return kaldi.fbank(
        waveform[None] * 32768,
        sample_frequency=sample_rate,
        window_type=window,
        num_mel_bins=n_mels,
        **options,
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("window", ["hamming", "povey"])
@pytest.mark.parametrize("sample_rate", [16000, 8000])
def test_fbank_equals_torchaudio_on_real_speech(speech, sample_rate, window):
    fbank = Fbank(sample_rate, window=window)
    for waveform in speech:
        waveform = torchaudio.functional.resample(waveform, 16000, sample_rate)
        ours = fbank(waveform[None])[0][0]
        # Bins 60 dB below their neighbours keep few digits in float32, torchaudio's own included:
        # its double precision is the reference, its float32 error the measure for the worst bins.
        theirs = by_torchaudio(waveform.double(), sample_rate, window)
        their_error = (by_torchaudio(waveform, sample_rate, window) - theirs).abs()
        error = (ours - theirs).abs()
        assert ours.shape == theirs.shape
        assert error.mean() < 1e-5 + 2 * their_error.mean()
        assert (error > 1e-3).sum() <= 5 + 2 * (their_error > 1e-3).sum()
        assert error.max() < 1e-3 + 3 * their_error.max()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "values, options",
    [
        ({"n_mels": 40}, {"n_mels": 40}),
        ({"low_hz": 60.0, "high_hz": 7600.0}, {"low_freq": 60.0, "high_freq": 7600.0}),
        (
            {"frame_length_seconds": 0.032, "frame_shift_seconds": 0.0125},
            {"frame_length": 32.0, "frame_shift": 12.5},
        ),
        ({"sample_rate": 11025}, {"sample_rate": 11025}),
    ],
)
def test_fbank_settings_mean_what_they_mean_in_kaldi(values, options):
    waveform = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    ours = Fbank(**values)(waveform[None])[0][0]
    torch.testing.assert_close(ours, by_torchaudio(waveform, **options), rtol=0, atol=2e-3)


@pytest.mark.usefixtures("way")
def test_digital_silence_is_the_floor_and_finite():
    features, _ = Fbank()(torch.zeros(1, 1600))
    assert features.unique().tolist() == pytest.approx([-15.9424], abs=1e-4)


@pytest.mark.usefixtures("way")
def test_padded_items_have_the_features_they_have_alone(speech):
    lengths = torch.tensor([len(waveform) for waveform in speech])
    batch = torch.nn.utils.rnn.pad_sequence(speech, batch_first=True, padding_value=0.7)
    fbank = Fbank()
    features, n_frames = fbank(batch, lengths)
    for item, (waveform, n) in enumerate(zip(speech, n_frames.tolist())):
        alone, no_lengths = fbank(waveform[None])
        assert no_lengths is None
        assert n == alone.shape[1] == 1 + (len(waveform) - 400) // 160
        torch.testing.assert_close(features[item, :n], alone[0], rtol=0, atol=1e-4)
        assert (features[item, n:] == 0).all()


def test_fbank_in_pieces_equals_fbank_at_once(monkeypatch):
    monkeypatch.setattr(native, "AVAILABLE", False)
    waveforms = 0.1 * torch.randn(3, 48000, generator=torch.Generator().manual_seed(0))
    at_once = Fbank()(waveforms)[0]
    for frames in (1, 7, 100, 298 * 3):
        monkeypatch.setattr("spkver.features.fbank.FRAMES_AT_ONCE", frames)
        torch.testing.assert_close(Fbank()(waveforms)[0], at_once, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("way")
def test_fbank_ignores_autocast_and_has_an_empty_state_dict():
    waveforms = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    fbank = Fbank()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = fbank(waveforms)[0]
    assert features.dtype == torch.float32
    assert torch.equal(features, fbank(waveforms)[0])
    assert fbank.state_dict() == {}


def test_fbank_has_gradients():
    waveforms = (0.1 * torch.randn(2, 4000)).requires_grad_()
    Fbank()(waveforms)[0].sum().backward()
    assert waveforms.grad.isfinite().all() and waveforms.grad.abs().max() > 0


@needs_kernels
@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    frame_length=st.integers(2, 1500),
    frame_shift=st.integers(1, 700),
    extra=st.integers(0, 6000),
    n_mels=st.integers(1, 100),
    batch=st.integers(1, 3),
)
def test_the_kernel_makes_what_torch_makes(seed, frame_length, frame_shift, extra, n_mels, batch):
    generator = torch.Generator().manual_seed(seed)
    lengths = {"frame_length_seconds": frame_length / 16000, "frame_shift_seconds": frame_shift / 16000}
    fbank = Fbank(n_mels=n_mels, formant_factors=[1.0, 0.9, 1.1], **lengths)
    waveforms = 0.1 * torch.randn(batch, frame_length + extra, generator=generator)
    formants = torch.randint(3, (batch,), generator=generator)
    by_kernel = fbank(waveforms, formants=formants)[0]
    by_torch = fbank(waveforms.requires_grad_(), formants=formants)[0]  # a gradient is wanted: torch's way
    # Energies: what float32 rounds off is a share of the frame's largest, so it can be all of a small one.
    energy, expected = by_kernel.exp(), by_torch.detach().exp()
    assert ((energy - expected).abs() <= 1e-4 * expected + 2e-6 * expected.amax(2, keepdim=True)).all()


@needs_kernels
def test_the_kernel_works_where_no_gradient_is_wanted(monkeypatch):
    called = []
    real = native.call
    monkeypatch.setattr(native, "call", lambda name, *rest, **types: (called.append(name), real(name, *rest, **types)))
    Fbank()(torch.randn(1, 16000))
    assert called == ["log_mel"]
    Fbank()(torch.randn(1, 16000).requires_grad_())
    assert called == ["log_mel"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sample", [torch.nan, torch.inf, 1e30])
def test_what_is_not_finite_or_too_loud_stays_so_in_its_frames_alone(sample):
    waveforms = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    expected = Fbank()(waveforms)[0]
    waveforms[0, 8000] = sample
    features = Fbank()(waveforms)[0]
    hit = torch.zeros(98, dtype=torch.bool)
    hit[48:51] = True  # frames of 400 samples every 160
    assert not features[0, hit].isfinite().any()
    torch.testing.assert_close(features[0, ~hit], expected[0, ~hit])
    torch.testing.assert_close(features[1], expected[1])


@pytest.mark.usefixtures("way")
def test_formants_that_there_are_not_are_refused():
    fbank = Fbank(formant_factors=[1.0, 0.9])
    with pytest.raises(IndexError):
        fbank(torch.zeros(2, 16000), formants=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"formants must be \(3,\) integers, not \(2,\) of torch.int64"):
        fbank(torch.zeros(3, 16000), formants=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"formants must be \(2,\) integers, not \(2,\) of torch.bool"):
        fbank(torch.zeros(2, 16000), formants=torch.tensor([True, False]))


@pytest.mark.usefixtures("way")
def test_dither_is_for_training_only_and_in_16_bit_steps():
    fbank = Fbank(dither=1.0)
    silence = torch.zeros(1, 16000)
    torch.manual_seed(0)
    dithered = fbank.train()(silence)[0]
    # White noise of variance 1 under a Hamming window: what torchaudio makes of it.
    expected = by_torchaudio(torch.randn(160000) / 32768).mean(0)
    torch.testing.assert_close(dithered[0].mean(0), expected, rtol=0, atol=0.6)
    assert (fbank.eval()(silence)[0] < -15).all()


def test_less_than_a_frame_is_refused():
    with pytest.raises(SpkverError, match=r"399 samples is shorter than one frame \(400 samples"):
        Fbank()(torch.zeros(1, 399))
    with pytest.raises(SpkverError, match="a waveform of 12 samples"):
        Fbank()(torch.zeros(2, 1600), torch.tensor([1600, 12]))
    assert Fbank()(torch.zeros(1, 400))[0].shape == (1, 1, 80)


@pytest.mark.parametrize(
    "waveforms, lengths, message",
    [
        (torch.zeros(1600), None, "waveforms must be"),
        (torch.zeros(0, 1600), None, "waveforms must be"),
        (torch.zeros(1, 1600, dtype=torch.int16), None, "torch.int16"),
        (torch.zeros(2, 1600), torch.tensor([1600]), "lengths must be"),
        (torch.zeros(1, 1600), torch.tensor([0.5]), "lengths must be"),
        (torch.zeros(1, 1600), torch.tensor([1601]), "lengths holds 1601"),
    ],
)
def test_wrong_tensors_are_refused(waveforms, lengths, message):
    with pytest.raises(ValueError, match=message):
        Fbank()(waveforms, lengths)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"window": "hann"}, "window 'hann' is not known"),
        ({"sample_rate": 8000, "high_hz": 7600.0}, "7600.0 Hz at 8000 Hz"),
        ({"low_hz": -1.0}, "the edges must rise"),
        ({"n_mels": 0}, "0 bins"),
        ({"frame_shift_seconds": 0.0}, "less than a sample"),
    ],
)
def test_settings_without_a_filterbank_are_refused(values, message):
    with pytest.raises(SpkverError, match=message):
        Fbank(**values)


def test_mean_normalise_makes_each_items_own_frames_zero_mean():
    features = 5 + 3 * torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    n_frames = torch.tensor([50, 20, 1])
    normalised, average = mean_normalise(features, n_frames)
    for item, n in enumerate(n_frames.tolist()):
        own = features[item, :n]
        torch.testing.assert_close(normalised[item, :n], own - own.mean(0), rtol=0, atol=1e-5)
        torch.testing.assert_close(average[item], own.mean(0), rtol=0, atol=1e-5)
        assert (normalised[item, n:] == 0).all()
    for part, of_padded in zip(mean_normalise(features), (normalised, average)):
        torch.testing.assert_close(part[:1], of_padded[:1])


ONES = torch.ones(400, 198, 80)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_spec_augment_masks_the_expected_share():
    masked = SpecAugment(1.0, 1, 40, 1, 20).train()(ONES, drawn(0)) == 0
    # A band's mean width is half of its maximum; the two kinds are independent.
    over_time, over_freq = 20 / 198, 10 / 80
    assert masked.all(dim=2).float().mean().item() == pytest.approx(over_time, abs=0.01)
    assert masked.all(dim=1).float().mean().item() == pytest.approx(over_freq, abs=0.01)
    expected = 1 - (1 - over_time) * (1 - over_freq)
    assert masked.float().mean().item() == pytest.approx(expected, abs=0.01)


def test_spec_augment_masks_bands_no_wider_than_the_maximum_anywhere_in_the_item():
    masked_frames = (SpecAugment(1.0, 1, 12, 0, 0).train()(ONES, drawn(0)) == 0).all(dim=2)
    assert sorted(masked_frames.sum(1).unique().tolist()) == list(range(13))
    assert masked_frames.int().diff(dim=1).clamp_min(0).sum(1).max() <= 1, "one mask is one band"
    assert masked_frames.any(dim=0).float().mean() > 0.95
    assert masked_frames[:, 0].any() and masked_frames[:, -1].any()


def test_spec_augment_masks_differ_between_items():
    masked = (SpecAugment(1.0, 2, 20, 2, 10).train()(ONES[:32], drawn(0)) == 0).flatten(1)
    assert len(masked.unique(dim=0)) == 32


def test_spec_augment_leaves_out_items_by_probability():
    augmented = SpecAugment(0.6, 4, 30, 4, 10).train()(ONES, drawn(0))
    touched = (augmented == 0).flatten(1).any(1).float().mean().item()
    assert touched == pytest.approx(0.6, abs=0.08)
    assert torch.equal(SpecAugment(0.0, 4, 30, 4, 10).train()(ONES, drawn(0)), ONES)


def test_spec_augment_repeats_with_its_generator():
    augment = SpecAugment(0.6, 2, 20, 2, 10).train()
    assert torch.equal(augment(ONES, drawn(1)), augment(ONES, drawn(1)))
    assert not torch.equal(augment(ONES, drawn(1)), augment(ONES, drawn(2)))


def test_spec_augment_leaves_its_input_and_evaluation_alone():
    features = torch.ones(4, 100, 80)
    augment = SpecAugment(1.0, 2, 20, 2, 10).train()
    assert not torch.equal(augment(features, drawn(0)), features)
    assert (features == 1).all()
    assert torch.equal(augment.eval()(features, drawn(0)), features)


def test_spec_augment_takes_items_shorter_than_a_mask():
    assert SpecAugment(1.0, 2, 20, 2, 10).train()(torch.ones(2, 5, 4), drawn(0)).shape == (2, 5, 4)


def tone(hz, seconds=0.5):
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(int(16000 * seconds)) / 16000)


@pytest.mark.parametrize("factor", [0.85, 0.9, 1.1, 1.2])
def test_a_formant_factor_moves_a_tone_to_the_bin_of_the_stretched_frequency(factor):
    fbank = Fbank(formant_factors=[1.0, factor])
    for hz in (300.0, 1000.0, 2500.0, 4500.0):
        moved, _ = fbank(tone(hz)[None], formants=torch.tensor([1]))
        expected, _ = fbank(tone(factor * hz)[None])
        assert abs(int(moved.mean(1).argmax()) - int(expected.mean(1).argmax())) <= 1


@pytest.mark.usefixtures("way")
def test_formants_are_chosen_for_each_item_and_the_first_is_the_recording():
    fbank = Fbank(formant_factors=[1.0, 0.9, 1.1])
    waveforms = torch.randn(3, 8000, generator=torch.Generator().manual_seed(2)) / 10
    plain, _ = fbank(waveforms)
    torch.testing.assert_close(plain, Fbank()(waveforms)[0])
    chosen, _ = fbank(waveforms, formants=torch.tensor([1, 0, 2]))
    torch.testing.assert_close(chosen[1], plain[1], rtol=1e-5, atol=1e-4)
    for item, factor in ((0, 0.9), (2, 1.1)):
        alone = Fbank(formant_factors=[factor])(waveforms[item : item + 1])[0][0]
        torch.testing.assert_close(chosen[item], alone, rtol=1e-5, atol=1e-4)
        assert (chosen[item] - plain[item]).abs().mean() > 0.1


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("deviation_hz", [60.0, 120.0, 1e9])
def test_an_envelope_moves_by_the_gaussian_mean_of_the_change(speech, deviation_hz):
    factors, settings = [1.0, 0.9, 1.15], {"n_mels": 50, "frame_length_seconds": 0.06}
    waveforms = torch.stack([waveform[:32000] for waveform in speech[:3]])
    formants = torch.tensor([1, 2, 0])
    stretched = Fbank(formant_factors=factors, **settings)(waveforms, formants=formants)[0].double().numpy()
    recorded = Fbank(**settings)(waveforms)[0].double().numpy()
    mel = np.linspace(1127 * np.log1p(20 / 700), 1127 * np.log1p(8000 / 700), 52)
    hz = 700 * np.expm1(mel / 1127)[1:-1]
    expected = recorded.copy()
    for band, centre in enumerate(hz):
        weights = np.exp(-(((hz - centre) / deviation_hz) ** 2) / 2) * np.gradient(hz)
        expected[..., band] += np.average(stretched - recorded, axis=2, weights=weights)
    fbank = Fbank(formant_factors=factors, formant_envelope_hz=deviation_hz, **settings)
    moved = fbank(waveforms, formants=formants)[0].numpy()
    assert np.abs(moved - expected).max() < 2e-3
    assert np.abs(moved[2] - recorded[2]).max() < 1e-4  # the recorded vocal tract
    assert np.abs(fbank(waveforms)[0].numpy() - recorded).max() < 1e-4


def harmonics(f0, formant_hz):
    """A second of a voice: harmonics of ``f0`` up to 4 kHz, under a hill of 20 dB around ``formant_hz``."""
    hz = f0 * torch.arange(1, int(4000 / f0) + 1)
    amplitudes = 10 ** torch.exp(-0.5 * ((hz - formant_hz) / 400) ** 2)
    phases = 2 * torch.pi * hz[:, None] * torch.arange(16000) / 16000 + hz[:, None]
    return 0.01 * (amplitudes[:, None] * torch.sin(phases)).sum(0)


FINE = {"n_mels": 120, "frame_length_seconds": 0.06}  # harmonics stand apart


def heard(waveform, factor=1.0, **options):
    fbank = Fbank(formant_factors=[1.0, factor], **FINE, **options)
    return fbank(waveform[None], formants=torch.tensor([1]))[0][0].mean(0)


def same_pitch(a, b):
    """Correlation of what a mean over 21 bands leaves, over the lower bands."""
    bands = torch.stack([a, b])[:, None]
    means = torch.nn.functional.avg_pool1d(bands, 21, 1, 10, count_include_pad=False)
    return torch.corrcoef((bands - means)[:, 0, 10:60])[0, 1]


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_an_envelope_that_moves_takes_the_formant_along_and_leaves_the_pitch(factor):
    voice = harmonics(100.0, 1500.0)
    recorded, another_tract = heard(voice), heard(harmonics(100.0, factor * 1500.0))
    whole, envelope = heard(voice, factor), heard(voice, factor, formant_envelope_hz=120.0)
    assert same_pitch(envelope, recorded) > 0.9 > 0.5 > same_pitch(whole, recorded)
    places = [int(bands.argmax()) for bands in (recorded, another_tract, envelope)]
    assert abs(places[2] - places[1]) <= 2 < 5 <= abs(places[2] - places[0])


def test_a_slower_voice_with_the_inverse_factor_has_its_pitch_back_unless_the_envelope_alone_moves():
    voice = harmonics(100.0, 1500.0)
    slower = torch.from_numpy(speed(voice.numpy(), 0.8))
    whole, envelope = heard(slower, 1 / 0.8), heard(slower, 1 / 0.8, formant_envelope_hz=120.0)
    assert same_pitch(whole, heard(voice)) > 0.9 > 0.5 > same_pitch(envelope, heard(voice))
    assert same_pitch(envelope, heard(harmonics(80.0, 1500.0))) > 0.9
    assert abs(int(whole.argmax()) - int(envelope.argmax())) <= 2


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_stretching_the_axis_keeps_its_ends_and_its_order(factor):
    hz = torch.linspace(0, 8000, 257, dtype=torch.float64)
    stretched = _stretched(hz, factor)
    assert stretched[0] == 0
    assert stretched[-1] == pytest.approx(8000)
    assert (stretched.diff() > 0).all()
    low = hz < 0.85 * 8000 / max(factor, 1.0)
    torch.testing.assert_close(stretched[low], factor * hz[low])
