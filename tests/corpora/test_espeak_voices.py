"""The synthesiser behind the built-in corpus."""

import sys

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="needs the synthesiser: pip install spkver[mini]")

from spkver.corpora.espeak_voices import ACCENTS, SAMPLE_RATE, Synthesiser, Voice, draw_voice, write_voices
from spkver.errors import SpkverError

TEXT = "The thirsty shepherd measured seven shiny clocks near the village square."


def plain(name, pitch, accent="en-us"):
    return Voice(name, "m", accent, 160.0, (f"pitch {pitch} {pitch + 4}", "flutter 0", "breath 0 20 20 20"))


@pytest.fixture(scope="module")
def voices():
    rng = np.random.default_rng(3)
    drawn = [draw_voice(f"v{n}", "fm"[n % 2], rng) for n in range(8)]
    return {voice.name: voice for voice in [*drawn, plain("low", 80), plain("high", 200)]}


@pytest.fixture(scope="module")
def synthesiser(voices, tmp_path_factory):
    return Synthesiser(write_voices(tmp_path_factory.mktemp("data"), list(voices.values())))


def pitch_hz(samples):
    """The highest peak of the autocorrelation between 60 and 320 Hz."""
    power = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
    lags = np.arange(SAMPLE_RATE // 320, SAMPLE_RATE // 60)
    return SAMPLE_RATE / lags[np.fft.irfft(power)[lags].argmax()]


def test_sentence_does_not_depend_on_what_was_spoken_before(synthesiser, voices):
    def speak(name, text=TEXT, seed=5):
        return synthesiser.speak(text, voices[name], 160, 50, seed)

    first = {name: speak(name) for name in voices}
    for name in reversed(voices):
        speak("low", "Something else is said in between.", seed=6)
        np.testing.assert_array_equal(speak(name), first[name])


def test_seed_changes_the_breath_only(synthesiser, voices):
    one, other = (synthesiser.speak(TEXT, voices["low"], 160, 50, seed) for seed in (1, 2))
    n = min(len(one), len(other))
    assert not np.array_equal(one[:n], other[:n])
    assert np.corrcoef(one[:n], other[:n])[0, 1] > 0.9


def test_pitch_of_the_voice_file_is_heard(synthesiser, voices):
    for name, low, high in (("low", 70, 100), ("high", 180, 230)):
        assert low < pitch_hz(synthesiser.speak(TEXT, voices[name], 160, 50, 1)) < high


def test_pitch_argument_moves_the_pitch(synthesiser, voices):
    pitches = [pitch_hz(synthesiser.speak(TEXT, voices["low"], 160, pitch, 1)) for pitch in (40, 50, 60)]
    assert pitches[0] < pitches[1] < pitches[2]


def test_faster_is_shorter(synthesiser, voices):
    lengths = [len(synthesiser.speak(TEXT, voices["low"], rate, 50, 1)) for rate in (120, 160, 200)]
    assert lengths[0] > 1.15 * lengths[1] > 1.3 * lengths[2]


def test_every_accent_speaks_in_its_own_way(synthesiser):
    spoken = {}
    for accent in ACCENTS:
        samples = synthesiser.speak(TEXT, plain("low", 80, accent), 160, 50, 1)
        assert 3 < len(samples) / SAMPLE_RATE < 7
        spoken[accent] = samples.tobytes()
    assert len(set(spoken.values())) == len(ACCENTS)


def test_no_voice_clips_or_whispers_away(synthesiser, voices):
    for voice in voices.values():
        samples = synthesiser.speak(TEXT, voice, 160, 50, 1)
        assert 0.02 < np.abs(samples).max() < 0.99
        assert samples.std() > 0.005


def test_voices_differ_and_their_genders_differ_in_pitch():
    rng = np.random.default_rng(1)
    drawn = [draw_voice(f"v{n}", "fm"[n % 2], rng) for n in range(200)]
    assert len({voice.lines for voice in drawn}) == 200
    assert {voice.accent for voice in drawn} == set(ACCENTS)
    low_of = {gender: [float(v.lines[0].split()[1]) for v in drawn if v.gender == gender] for gender in "fm"}
    assert np.median(low_of["f"]) > 1.4 * np.median(low_of["m"])
    assert max(low_of["m"]) > min(low_of["f"])


def test_unknown_voice_and_missing_data_are_told(synthesiser, tmp_path):
    with pytest.raises(SpkverError, match=r"no voice 'en-us\+nobody'"):
        synthesiser.speak(TEXT, plain("nobody", 80), 160, 50, 1)
    with pytest.raises(SpkverError, match="does not start"):
        Synthesiser(tmp_path).speak(TEXT, plain("low", 80), 160, 50, 1)


def test_missing_package_is_told_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    for call in (lambda: write_voices(tmp_path, []), lambda: Synthesiser(tmp_path)):
        with pytest.raises(SpkverError, match=r"^[^\n]*pip install spkver\[mini\][^\n]*$"):
            call()
