"""Speech by energy: pauses, noise and silence are left out, and windows hold nothing but speech."""

import weakref

import numpy as np
import pytest

from spkver.data.audio import read_audio
from spkver.data.vad import BLOCK_SECONDS, choose_speech, detect_speech, is_steady, speech_windows
from spkver.errors import SpkverError
from spkver.features import Fbank

RATE = 16000
FBANK = Fbank().eval()


def talk(seconds, seed=0, loudness=0.3):
    """Harmonics that swell and fade as syllables do."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 150 * k * time + rng.uniform(0, 6)) / k for k in range(1, 20))
    return loudness * tone / np.abs(tone).max() * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time))


def noise(seconds, level, seed=1):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def recording(*talks, seconds, level):
    """Noise with talk from a second on, for each ``(start, length)``; and where the talk is."""
    samples, truth = noise(seconds, level), np.zeros(round(seconds * RATE), bool)
    for start, length in talks:
        place = slice(round(start * RATE), round((start + length) * RATE))
        samples[place] += talk(length, seed=round(10 * start))
        truth[place] = True
    return samples.astype(np.float32), truth


@pytest.mark.parametrize("level", [0.0, 0.0003, 0.003, 0.01])
def test_talk_is_found_between_pauses(level):
    samples, truth = recording((2, 5), (10, 3), (20, 6), seconds=30, level=level)
    found = detect_speech(samples, FBANK)
    assert found.shape == truth.shape
    assert (found & truth).sum() / truth.sum() > 0.97
    assert (found & ~truth).sum() / (~truth).sum() < 0.03


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE * 10), noise(10, 0.1), noise(10, 1e-5), np.zeros(100), np.zeros(0)],
    ids=["silence", "loud noise", "a noisy zero", "shorter than a frame", "nothing"],
)
def test_silence_and_steady_noise_hold_no_speech(samples):
    found = detect_speech(samples.astype(np.float32), FBANK)
    assert found.shape == samples.shape
    assert not found.any()


def test_hum_below_the_voice_is_no_speech_and_hides_none():
    samples, truth = recording((5, 5), seconds=20, level=0.0005)
    hum = 0.3 * np.sin(2 * np.pi * 50 * np.arange(len(samples)) / RATE)
    found = detect_speech((samples + hum).astype(np.float32), FBANK)
    assert (found & truth).sum() / truth.sum() > 0.95
    assert (found & ~truth).sum() / (~truth).sum() < 0.05


def test_a_click_is_no_speech_and_a_short_pause_is():
    samples = noise(20, 0.0005).astype(np.float32)
    samples[3 * RATE : 3 * RATE + 160] = 0.9
    samples[10 * RATE : 12 * RATE] += talk(2)
    samples[11 * RATE : round(11.2 * RATE)] = 0
    found = detect_speech(samples.astype(np.float32), FBANK)
    assert not found[: 9 * RATE].any()
    assert found[round(10.1 * RATE) : round(11.9 * RATE)].all()


def blocks(samples):
    step = round(BLOCK_SECONDS * RATE)
    return [samples[start : start + step] for start in range(0, len(samples), step)]


def test_windows_lie_where_speech_is_and_hold_only_it():
    talks = [(5, 10), (40, 9), (58, 6)]
    samples, truth = recording(*talks, seconds=70, level=0.0005)
    windows = list(speech_windows(blocks(samples), FBANK, 4.0, 2.0))
    starts = [window.start_seconds for window in windows]
    assert starts == sorted(set(starts)) and all(start % 2 == 0 for start in starts)
    expected = [s for s in range(0, 67, 2) if truth[s * RATE : (s + 4) * RATE].mean() > 0.4]
    assert set(expected) <= set(starts)
    assert not {s for s in range(0, 67, 2) if truth[s * RATE : (s + 4) * RATE].mean() < 0.3} & set(starts)
    for window in windows:
        spoken = truth[round(window.start_seconds * RATE) : round(window.end_seconds * RATE)].sum()
        assert len(window.speech) == pytest.approx(spoken, abs=0.2 * RATE)
        places = np.flatnonzero(truth[round(window.start_seconds * RATE) : round(window.end_seconds * RATE)]) / RATE
        assert window.first_seconds == pytest.approx(window.start_seconds + places[0], abs=0.1)
        assert window.last_seconds == pytest.approx(window.start_seconds + places[-1], abs=0.1)


def test_windows_do_not_depend_on_where_the_pieces_end_but_for_the_decision():
    # 27 s of talk over the border of two pieces: whole windows come out of both sides of it.
    samples, _ = recording((16, 27), seconds=60, level=0.0)
    windows = {window.start_seconds: window for window in speech_windows(blocks(samples), FBANK, 3.0, 3.0)}
    for start in range(18, 39, 3):
        window = samples[start * RATE : (start + 3) * RATE]
        assert np.array_equal(windows[start].speech, window)


def test_the_end_of_a_recording_is_embedded():
    samples, _ = recording((1, 6), seconds=7.4, level=0.0005)
    ends = [w.end_seconds for w in speech_windows(blocks(samples), FBANK, 3.0, 3.0)]
    assert ends == [3.0, 6.0, 7.4]
    short, _ = recording((0.2, 1), seconds=1.4, level=0.0005)
    assert [w[:2] for w in speech_windows(blocks(short), FBANK, 3.0, 1.5)] == [(0.0, 1.4)]


@pytest.mark.parametrize(("window", "hop"), [(0.2, 0.1), (3.0, 0.0), (3.0, 4.0), (float("nan"), 1.0)])
def test_windows_that_cannot_be_are_refused(window, hop):
    with pytest.raises(SpkverError, match="window"):
        list(speech_windows([np.zeros(RATE, np.float32)], FBANK, window, hop))


def coloured(seconds, slope, seed):
    """Noise whose power falls with frequency: white, pink or brown, of standard deviation 1."""
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(seconds * RATE)))
    samples = np.fft.irfft(white / np.arange(1, len(white) + 1) ** (slope / 2), round(seconds * RATE))
    return (samples / samples.std()).astype(np.float32)


@pytest.mark.parametrize("level", [1e-4, 1e-2])
@pytest.mark.parametrize("slope", [0, 1, 2], ids=["white", "pink", "brown"])
@pytest.mark.parametrize("seconds", [2, 20])
def test_steady_noise_is_told_at_any_level_also_behind_digital_zeros(slope, level, seconds):
    samples = level * coloured(seconds, slope, seed=0)
    assert is_steady(samples, FBANK)
    assert is_steady(np.concatenate([np.zeros(RATE * 2, np.float32), samples]), FBANK)


def test_hum_and_tones_are_steady():
    time = np.arange(4 * RATE) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 9)) * 0.1
    for samples in (hum, hum + noise(4, 1e-4), 0.1 * np.sin(2 * np.pi * 1000 * time)):
        assert is_steady(samples.astype(np.float32), FBANK)


@pytest.mark.parametrize("seconds", [0.3, 1, 3])
def test_talk_is_not_steady_nor_a_word_in_half_a_minute_of_hiss(seconds):
    word = talk(seconds).astype(np.float32)
    assert not is_steady(word, FBANK)
    samples = 0.003 * coloured(30, 0, seed=2)
    samples[14 * RATE : 14 * RATE + len(word)] += word
    assert not is_steady(samples, FBANK)


def test_speech_is_chosen_from_the_middle_of_all_that_there_is():
    samples, truth = recording((5, 10), (50, 10), (110, 10), seconds=130, level=0.0005)
    chosen = choose_speech(lambda: blocks(samples), FBANK, 20.0)
    assert chosen.recorded_seconds == 130 and len(chosen.samples) == 20 * RATE
    # 30 s of speech: the last half of the first talk, the second, and the first half of the third.
    expected = samples[truth][5 * RATE : 25 * RATE]
    assert np.mean(chosen.samples[2 * RATE : 3 * RATE] * expected[2 * RATE : 3 * RATE]) != 0
    energies = [np.std(chosen.samples[s * RATE : (s + 1) * RATE]) for s in range(20)]
    assert min(energies) > 0.02  # talk in each second, no pause
    assert len(choose_speech(lambda: blocks(samples), FBANK, 60.0).samples) == pytest.approx(truth.sum(), rel=0.05)


def test_a_recording_within_the_limit_is_chosen_whole_and_one_of_noise_not_at_all():
    samples, _ = recording((5, 3), seconds=30, level=0.0005)
    assert np.array_equal(choose_speech(lambda: blocks(samples), FBANK, 30.0).samples, samples)
    hiss = noise(70, 0.01).astype(np.float32)
    for most in (20.0, 90.0):
        assert len(choose_speech(lambda: blocks(hiss), FBANK, most).samples) == 0


def test_speech_that_drowns_in_noise_is_still_embedded():
    samples, _ = recording((0, 70), seconds=70, level=0.15)
    assert not detect_speech(samples[: 30 * RATE], FBANK).any()
    assert len(choose_speech(lambda: blocks(samples), FBANK, 60.0).samples) == 60 * RATE


def test_no_more_than_a_few_blocks_are_in_memory():
    block = recording((2, 20), seconds=30, level=0.0005)[0]
    given, most = [], 0

    class Counted(np.ndarray):  # plain arrays have no weak references
        pass

    def many():
        nonlocal most
        for _ in range(12):
            piece = block.copy().view(Counted)
            given.append(weakref.ref(piece))
            most = max(most, sum(one() is not None for one in given))
            yield piece

    assert len(choose_speech(many, FBANK, 60.0).samples) == 60 * RATE
    assert most <= 4


def test_no_real_word_or_sentence_is_taken_for_steady(speechocean762, speech_commands):
    sentences = sorted((speechocean762 / "WAVE").rglob("*.ogg"))[::250]
    words = [*sorted(speech_commands.rglob("*.ogg"))[::100], *speech_commands.rglob("*/05b2db80*.ogg")]
    for path in [*sentences, *words]:
        samples = read_audio(path, RATE)
        assert not is_steady(samples, FBANK), path
        energy = np.cumsum(np.pad(samples**2, (4800, 0)))
        loudest = int((energy[4800:] - energy[:-4800])[: max(len(samples) - 4800, 1)].argmax())
        assert not is_steady(samples[loudest : loudest + 4800], FBANK), path
    for index, path in enumerate(sentences):
        samples = read_audio(path, RATE)
        noisy = samples + np.std(samples) * coloured(len(samples) / RATE, 0, index)[: len(samples)]
        assert not is_steady(noisy.astype(np.float32), FBANK), path


@pytest.mark.parametrize("noise_db", [-20, -12])
def test_real_speech_is_found_again_under_noise(speechocean762, noise_db):
    """Where the detector hears speech in clean recordings it hears most of it when noise is laid over them."""
    files = sorted((speechocean762 / "WAVE").rglob("*.ogg"))[::250][:10]
    hits = total = false = quiet = 0
    for index, path in enumerate(files):
        pause = np.zeros(2 * RATE, np.float32)
        clean = np.concatenate([pause, read_audio(path, RATE), pause])
        truth = detect_speech(clean, FBANK)
        assert truth[2 * RATE : -2 * RATE].any() and not truth[: RATE * 3 // 2].any()
        level = np.sqrt(np.mean(clean[truth] ** 2)) * 10 ** (noise_db / 20)
        noisy = clean + noise(len(clean) / RATE, level, seed=index)[: len(clean)]
        found = detect_speech(noisy.astype(np.float32), FBANK)
        hits, total = hits + (found & truth).sum(), total + truth.sum()
        false, quiet = false + (found & ~truth).sum(), quiet + (~truth).sum()
    assert hits / total > 0.75, hits / total
    assert false / quiet < 0.05, false / quiet
