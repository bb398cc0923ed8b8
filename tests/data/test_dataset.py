"""Crops: what they depend on, the labels of speeds, and the cache."""

import re

import numpy as np
import pytest
import soundfile
import torch

from spkver.config import load_config
from spkver.data import shared_memory
from spkver.data.audio_check import keep_usable
from spkver.data.augment import Augmenter
from spkver.data.crop_batch import CropBatch, as_float32
from spkver.data.dataset import Collate, SpeakerCrops, WaveformCache
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.data.sampler import Draw, SpeakerBatchSampler
from spkver.errors import SpkverError


@pytest.fixture(scope="session")
def directory(voices):
    return keep_usable(read_data_directory(voices), 16000)


@pytest.fixture
def make(directory, tiny_config):
    def make(*overrides, cache_gigabytes=1.0, seed=1, crop_seconds=0.5):
        augment = load_config(tiny_config, list(overrides)).augment
        return SpeakerCrops(directory, 16000, crop_seconds, augment, seed, cache_gigabytes)

    return make


PLAIN = ("augment.babble.probability=0.0", "augment.reverb.probability=0.0")


def crop(dataset, draw) -> np.ndarray:
    """The crop of a draw, augmented."""
    collate = Collate(dataset.crop_samples, Augmenter(dataset.draws, torch.device("cpu")))
    return collate([dataset[draw]])[0][0].numpy()


def test_labels_are_speed_major(make):
    dataset = make()
    assert len(dataset) == 120
    assert dataset.n_classes == 20
    assert list(dataset.labels[:60]) == list(np.repeat(np.arange(10), 6))
    assert list(dataset.labels[60:]) == list(10 + np.repeat(np.arange(10), 6))
    for item in (0, 59, 60, 119):
        assert dataset[Draw(item, 0, 0, 0)][1] == dataset.labels[item]


def test_a_crop_depends_on_its_draw_only(make):
    one, two = make(), make()
    draws = [Draw(item, 2, step, item % 6) for step, item in enumerate(range(0, 120, 7))]
    for draw in draws:
        one[Draw(3, 0, 0, 0)]  # what was read before must not matter
        assert np.array_equal(crop(one, draw), crop(two, draw))
    for other in (Draw(7, 3, 1, 1), Draw(7, 2, 2, 1), Draw(7, 2, 1, 2)):
        assert not np.array_equal(crop(one, Draw(7, 2, 1, 1)), crop(one, other))
    assert not np.array_equal(crop(one, draws[1]), crop(make(seed=2), draws[1]))


@pytest.mark.parametrize("item", [5, 65])
@pytest.mark.parametrize("crop_seconds", [0.5, 1.0, 3.0])
def test_every_crop_has_the_same_length_also_of_short_files_and_other_speeds(make, item, crop_seconds):
    dataset = make(crop_seconds=crop_seconds)
    for epoch in range(5):
        samples = crop(dataset, Draw(item, epoch, 0, 0))
        assert samples.shape == (round(16000 * crop_seconds),)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()


def test_crops_start_anywhere_in_the_file(make, directory):
    dataset = make(*PLAIN)
    first = np.stack([as_float32(dataset[Draw(0, epoch, 0, 0)].samples)[:200] for epoch in range(40)])
    assert len(np.unique(first.round(3), axis=0)) > 35


FORMS = {
    "16.wav": ("WAV", "PCM_16", 16000, 1),
    "stereo.wav": ("WAV", "PCM_16", 16000, 2),
    "24.wav": ("WAV", "PCM_24", 16000, 1),
    "float.wav": ("WAV", "FLOAT", 16000, 1),
    "law.wav": ("WAV", "ULAW", 16000, 1),
    "16.flac": ("FLAC", "PCM_16", 16000, 1),
    "8k.wav": ("WAV", "PCM_16", 8000, 1),
    "22k.flac": ("FLAC", "PCM_16", 22050, 2),
    "odd.wav": ("WAV", "PCM_16", 22051, 1),
    "44k.mp3": ("MP3", "MPEG_LAYER_III", 44100, 1),
    "16k.mp3": ("MP3", "MPEG_LAYER_III", 16000, 1),
    "48k.opus": ("OGG", "OPUS", 48000, 1),
    "16k.ogg": ("OGG", "VORBIS", 16000, 1),
    "44k.ogg": ("OGG", "VORBIS", 44100, 2),
}


@pytest.fixture(scope="module")
def many_forms(tmp_path_factory):
    """An utterance of each form, of peaks of 3 where a form can hold them, and an MP3 shorter than a crop."""
    folder = tmp_path_factory.mktemp("forms")
    rng = np.random.default_rng(0)
    for name, (container, coding, rate, channels) in FORMS.items():
        seconds = 0.4 if name == "16k.mp3" else 3.1
        samples = 0.4 * rng.standard_normal((round(seconds * rate), channels)).cumsum(0)
        samples = (samples % 2 - 1) * (3.0 if coding == "FLOAT" else 0.7)
        samples[np.sin(30 * np.arange(len(samples)) / rate) < 0] *= 0.01  # a steady sound is no speech
        soundfile.write(folder / name, samples, rate, format=container, subtype=coding)
    write_data_directory(folder, [Utterance(name, folder / name, name[:2]) for name in FORMS])
    return keep_usable(read_data_directory(folder), 16000)


@pytest.mark.parametrize("form", FORMS)
def test_a_crop_is_the_same_to_the_last_bit_with_the_cache_and_without(many_forms, tiny_config, form):
    augment = load_config(tiny_config, [*PLAIN, "augment.speed_factors=[1.0, 0.9]"]).augment
    cached, read = (SpeakerCrops(many_forms, 16000, 0.5, augment, 1, gigabytes) for gigabytes in (1.0, 0.0))
    assert cached._cache is not None and read._cache is None
    index = [utterance.id for utterance in many_forms.utterances].index(form)
    # The first is decoded, the rest are from the cache.
    for step in range(30):
        for item in (index, index + len(FORMS)):
            draw = Draw(item, 0, step, 0)
            np.testing.assert_array_equal(crop(cached, draw), crop(read, draw))
    assert cached._cache.get(index, 0, 10) is not None
    if form == "float.wav":
        assert max(np.abs(crop(read, Draw(index, 0, step, 0))).max() for step in range(3)) > 2.5


def test_the_cache_takes_two_bytes_a_sample_where_that_is_exact_and_four_elsewhere(many_forms, tiny_config):
    augment = load_config(tiny_config).augment
    exact = {"16.wav", "law.wav", "16.flac"}
    lengths = {utt: round(seconds * 16000) for utt, seconds in many_forms.durations.items()}
    n_bytes = sum((2 if utt in exact else 4) * length for utt, length in lengths.items())
    fits = SpeakerCrops(many_forms, 16000, 0.5, augment, 1, (n_bytes + 100) / 1e9)
    assert fits._cache is not None
    assert len(fits._cache._bytes) == pytest.approx(n_bytes, abs=2 * len(exact))
    assert SpeakerCrops(many_forms, 16000, 0.5, augment, 1, (n_bytes - 100) / 1e9)._cache is None


def test_a_file_that_became_shorter_is_named(tiny_config, tmp_path):
    path = tmp_path / "a.wav"
    bursts = np.exp(2 * np.sin(np.arange(48000) / 800)) / 8
    soundfile.write(path, bursts * 0.1 * np.random.default_rng(0).standard_normal(48000), 16000)
    write_data_directory(tmp_path, [Utterance("a", path, "s")])
    directory = keep_usable(read_data_directory(tmp_path), 16000)
    soundfile.write(path, 0.1 * np.ones(1600), 16000)
    for gigabytes in (1.0, 0.0):
        crops = SpeakerCrops(directory, 16000, 0.5, load_config(tiny_config, list(PLAIN)).augment, 1, gigabytes)
        errors = [crops[Draw(0, epoch, 0, 0)] for epoch in range(9)]
        assert any(isinstance(error, SpkverError) and "a.wav" in str(error) for error in errors)


def test_a_faster_voice_is_higher(make):
    dataset = make(*PLAIN, "augment.speed_factors=[1.0, 2.0]")
    slow = np.abs(np.fft.rfft(crop(dataset, Draw(0, 0, 0, 0))))
    fast = np.abs(np.fft.rfft(crop(dataset, Draw(60, 0, 0, 0))))
    bins = np.arange(len(slow))
    assert (bins * fast).sum() / fast.sum() > 1.5 * (bins * slow).sum() / slow.sum()


def test_every_speed_with_every_formant_factor_makes_new_speakers(make, directory):
    dataset = make(*PLAIN, "augment.speed_factors=[1.0, 0.9]", "augment.formant_factors=[1.0, 0.9, 1.1]")
    n, speakers = len(directory.utterances), len(directory.speakers)
    assert dataset.variants == [(1.0, 0), (1.0, 1), (1.0, 2), (0.9, 0), (0.9, 1), (0.9, 2)]
    assert (len(dataset), dataset.n_classes, len(set(dataset.labels))) == (6 * n, 6 * speakers, 6 * speakers)
    for turn in range(6):
        _, label, formant, factor, _ = dataset[Draw(turn * n, 0, 0, 0)]
        assert factor == [1.0, 0.9][turn // 3]
        assert formant == turn % 3
        assert label == dataset.labels[turn * n]
        assert label // speakers == turn


def test_babble_comes_from_other_speakers(make, directory):
    dataset = make()
    drawn = []
    read = dataset._read
    dataset._read = lambda index, *rest: drawn.append(index) or read(index, *rest)
    for seed in range(50):
        dataset._draw_voice(np.random.default_rng(seed), 1000, "v3")
    assert len(drawn) == 50
    assert not any(directory.utterances[index].speaker == "v3" for index in drawn)


def test_babble_without_another_speaker_is_refused_at_the_start(directory, tiny_config):
    augment = load_config(tiny_config).augment
    with pytest.raises(SpkverError, match=r"only one, 'v3'; set augment\.babble\.probability=0, or add speakers"):
        SpeakerCrops(directory.subset(["v3"]), 16000, 0.5, augment, 1, 1.0)
    alone = load_config(tiny_config, list(PLAIN)).augment
    assert SpeakerCrops(directory.subset(["v3"]), 16000, 0.5, alone, 1, 1.0).n_classes == 2


def test_without_memory_for_the_cache_crops_are_read_from_files_and_it_is_said(make, monkeypatch, capsys):
    def refuse(*arguments):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(shared_memory.mmap, "mmap", refuse)
    dataset = make(*PLAIN)
    assert dataset._cache is None
    assert len(crop(dataset, Draw(0, 0, 0, 0))) == 8000
    assert "are not there ([Errno 12] Cannot allocate memory): every crop is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(5, "Input/output error"), r"\.wav: cannot be read \(Input/output error\)"),
        (MemoryError(), r"\.wav: no memory is left to read it; lower data\.workers"),
    ],
)
def test_what_the_machine_refuses_while_reading_is_an_item_in_one_line(make, monkeypatch, error, said):
    dataset = make(*PLAIN)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(dataset, "_read", fail)
    item = dataset[Draw(0, 0, 0, 0)]
    assert isinstance(item, SpkverError)
    assert re.search(said, str(item))


def test_the_cache_gives_back_what_was_put():
    cache = WaveformCache([5, 3, 4], [False, True, True])
    assert cache.get(0, 0, 5) is None
    floats = np.array([0.1, -7.5, 1e-9, 3.0, 0.0], np.float32)
    steps = np.array([-1.0, 32767 / 32768, 1 / 32768], np.float32)
    cache.put(0, floats)
    cache.put(1, steps)
    np.testing.assert_array_equal(cache.get(0, 1, 9), floats[1:])
    np.testing.assert_array_equal(cache.get(1, 0, 3), [-32768, 32767, 1])
    assert cache.get(1, 0, 3).dtype == np.int16
    assert cache.get(2, 0, 4) is None


@pytest.mark.parametrize("samples", [[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0], [0.0] * 3, [0.0] * 5])
def test_what_the_cache_could_not_give_back_exactly_is_not_kept(samples):
    cache = WaveformCache([4, 4], [True, True])
    cache.put(0, np.array(samples, np.float32))
    assert cache.get(0, 0, 4) is None
    assert cache.get(1, 0, 4) is None


def test_16_bit_samples_are_read_as_such_from_the_cache_and_packed_as_such_for_a_gpu(make):
    for gigabytes in (1.0, 0.0):
        dataset = make(*PLAIN, cache_gigabytes=gigabytes)
        draws = [Draw(item, 0, 0, slot) for slot, item in enumerate((0, 3, 61, 62))]
        first, crops = [dataset[draw] for draw in draws], [dataset[draw] for draw in draws]
        assert {each.samples.dtype.name for each in first} == {"float32"}
        assert {each.samples.dtype.name for each in crops} == {"int16" if gigabytes else "float32"}
        packed = Collate(dataset.crop_samples, None)(crops)
        batch = packed.unpacked(torch.device("cpu"))
        assert isinstance(batch, CropBatch)
        assert [(each.factor, each.samples.dtype, each.samples.shape) for each in batch.speeds] == [
            (0.9, torch.int16, (2, 7201)),
            (1.0, torch.int16, (2, 8001)),
        ]
        # 2 bytes a sample, and little else.
        assert len(packed.memory) < 2 * (2 * 7201 + 2 * 8001) + 1000


def test_a_batch_augmented_here_is_the_one_augmented_elsewhere(make):
    dataset = make("augment.clipping.probability=0.5", "augment.gain.probability=0.5", "augment.codec.probability=0.3")
    augmenter = Augmenter(dataset.draws, torch.device("cpu"))
    crops = [dataset[Draw(item, 1, 0, slot)] for slot, item in enumerate(range(0, 120, 10))]
    here = Collate(dataset.crop_samples, augmenter)(crops)
    there = augmenter(Collate(dataset.crop_samples, None)(crops).unpacked(torch.device("cpu")))
    for one, two in zip(here, there):
        assert torch.equal(one, two)
    assert here[1].tolist() == [crop.label for crop in crops] and max(here[1]) < dataset.n_classes


def test_processes_make_the_crops_of_the_whole_batch_but_for_rounding(make):
    dataset = make("augment.reverb.probability=1.0", "augment.babble.probability=0.5")
    collate = Collate(dataset.crop_samples, Augmenter(dataset.draws, torch.device("cpu")))

    def crops_of(rank, world_size):
        (draws, *_) = SpeakerBatchSampler(dataset.labels, 12, 1, 1, rank, world_size)
        return [part.numpy() for part in collate([dataset[draw] for draw in draws])]

    for whole, *slices in zip(crops_of(0, 1), *(crops_of(rank, 3) for rank in range(3))):
        # Rooms are convolved by an FFT of a process's own crops, whose last digits are others.
        np.testing.assert_allclose(np.concatenate(slices), whole, rtol=0, atol=1e-6)


def test_a_codec_changes_what_was_read_and_not_its_place(make):
    plain, coded = make(*PLAIN), make(*PLAIN, "augment.codec.probability=1.0")
    for item in (3, 65):
        one, two = (dataset[Draw(item, 0, 0, 0)].samples for dataset in (plain, coded))
        assert one.shape == two.shape and not np.array_equal(one, two)
        assert np.corrcoef(one, two)[0, 1] > 0.6


def test_augmentation_takes_one_thread_where_torch_has_more(make):
    torch.set_num_threads(2)
    dataset = make(*PLAIN)
    seen = []
    Collate(8000, lambda batch: seen.append(torch.get_num_threads()))([dataset[Draw(0, 0, 0, 0)]])
    assert (seen, torch.get_num_threads()) == ([1], 2)


def test_the_first_error_among_the_items_takes_the_place_of_the_batch(make):
    error = SpkverError("bad")
    assert Collate(8000, None)([make(*PLAIN)[Draw(0, 0, 0, 0)], error, SpkverError("later")]) is error
