"""Long recordings to segments: the rules on probabilities made up, and the model on real speech."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile

from spkver.corpora import voice_activity
from spkver.corpora.inspection import inspect_recordings
from spkver.corpora.long_recordings import MARK, cut_recordings
from spkver.corpora.own_folder import Limits, prepare_own_folder
from spkver.corpora.voice_activity import FRAME, SAMPLE_RATE, VoiceActivity, speech_segments
from spkver.data.audio import audio_info, read_audio
from spkver.data.directory import Utterance, read_pairs
from spkver.errors import SpkverError

needs_vad = pytest.mark.skipif(not (find_spec("silero_vad") and find_spec("onnxruntime")), reason="needs the extra vad")


def probabilities(*stretches: tuple[float, float]) -> np.ndarray:
    """100 frames a second of 60 s, 0.9 in the stretches (seconds) and 0.05 elsewhere."""
    frames = np.full(6000, 0.05)
    for start, end in stretches:
        frames[round(start * 100) : round(end * 100)] = 0.9
    return frames


def segments(frames: np.ndarray, max_seconds=10.0, min_seconds=1.0) -> list[tuple[float, float]]:
    return [(round(a, 6), round(b, 6)) for a, b in speech_segments(frames, max_seconds, min_seconds, 0.01)]


def test_speech_is_padded_and_joined_over_short_pauses_only():
    assert segments(probabilities((1, 3), (3.5, 5))) == [(0.9, 5.1)]
    # 1.3 s of pause, 1.1 s beside the padding: too long to be within a segment.
    assert segments(probabilities((1, 3), (4.3, 6))) == [(0.9, 3.1), (4.2, 6.1)]
    assert segments(probabilities((0, 2), (58, 60))) == [(0.0, 2.1), (57.9, 60.0)]


def test_clicks_and_words_too_short_are_left_out():
    assert segments(probabilities((1, 1.1), (10, 10.6), (20, 22))) == [(19.9, 22.1)]
    assert segments(probabilities()) == []
    assert segments(np.zeros(0)) == []


def test_no_segment_is_longer_than_asked_and_nothing_of_long_speech_is_lost():
    frames = probabilities((0, 60))
    frames[2800:2803] = 0.4  # less surely speech: the place to cut
    found = segments(frames, max_seconds=7)
    assert all(end - start <= 7 for start, end in found)
    assert found[0][0] == 0 and found[-1][1] == 60
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
    assert any(start == pytest.approx(28.0, abs=0.03) for start, _ in found)


def test_a_dip_between_the_thresholds_does_not_end_speech():
    frames = probabilities((1, 6))
    frames[300:400] = 0.4
    assert segments(frames) == [(0.9, 6.1)]
    assert segments(np.full(6000, 0.4)) == []  # 0.4 goes on, but never begins


@pytest.fixture(scope="module")
def talk(speechocean762, tmp_path_factory):
    """Six sentences of one reader with 3 s of faint noise around each; where they lie, in seconds."""
    folder = tmp_path_factory.mktemp("talk")
    audio = list(read_pairs(speechocean762 / "train" / "wav.scp").values())[:6]
    rng = np.random.default_rng(0)
    parts, places, at = [], [], 0.0
    for path in audio:
        samples = read_audio(speechocean762 / path, SAMPLE_RATE)
        parts += [1e-4 * rng.standard_normal(3 * SAMPLE_RATE), samples]
        places.append((at + 3, at + 3 + len(samples) / SAMPLE_RATE))
        at = places[-1][1]
    soundfile.write(folder / "talk.wav", np.concatenate(parts), SAMPLE_RATE)
    return folder / "talk.wav", places


@needs_vad
def test_each_sentence_is_found_and_the_noise_is_not(talk):
    path, places = talk
    found = speech_segments(VoiceActivity().probabilities(read_audio(path, SAMPLE_RATE)), 30, 0.5)
    for start, end in found:
        assert any(a - 0.15 <= start and end <= b + 0.15 for a, b in places), (start, end)
    for a, b in places:
        assert any(a <= (start + end) / 2 <= b for start, end in found), (a, b)


@needs_vad
def test_probabilities_are_those_of_the_package_itself(talk):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad  # sets torch to one thread

    torch.set_num_threads(threads)
    samples = read_audio(talk[0], SAMPLE_RATE)[: 20 * SAMPLE_RATE + 100]
    model = load_silero_vad()
    padded = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    theirs = [model(torch.from_numpy(frame), SAMPLE_RATE).item() for frame in padded]
    ours = VoiceActivity().probabilities(samples)
    assert len(ours) == -(-len(samples) // FRAME)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@needs_vad
def test_segments_are_files_at_the_wanted_rate_whatever_the_long_one_is(talk, tmp_path, monkeypatch):
    samples = read_audio(talk[0], SAMPLE_RATE, 0, 26)
    forms = {"a/x.mp3": (48000, 2), "b/x.ogg": (44100, 1), "c/x.flac": (8000, 2), "d/x.wav": (16000, 1)}
    utterances = []
    for name, (rate, channels) in forms.items():
        path = tmp_path / name
        path.parent.mkdir()
        grown = np.interp(np.arange(len(samples) * rate // 16000) * 16000 / rate, np.arange(len(samples)), samples)
        soundfile.write(path, np.stack([grown] * channels, 1), rate)
        utterances.append(Utterance(name, path, name[0]))
    monkeypatch.setattr("spkver.corpora.long_recordings.BLOCK_SECONDS", 15.0)
    for rate in (16000, 8000):
        found = cut_recordings(inspect_recordings(utterances), tmp_path / "segments", rate, 6.0, 1.0)
        # Compressed, through another rate, from one channel or two: the same speech.
        speech = [sum(seconds for _, seconds in parts) for parts in found]
        assert speech == pytest.approx([speech[-1]] * 4, rel=0.1)
        for utterance, seconds in [segment for parts in found for segment in parts]:
            found_rate, n, channels = audio_info(utterance.path)
            assert (found_rate, channels, n / rate) == (rate, 1, seconds)
            assert 1.0 <= seconds <= 6.0
        assert found[0][0][0].id == "a/x.mp3/00000" and found[0][0][0].speaker == "a"


@needs_vad
def test_ids_cannot_lead_out_of_the_folder_and_other_folders_are_not_replaced(talk, tmp_path):
    (one,) = inspect_recordings([Utterance("../../x", talk[0], "x")])
    (parts,) = cut_recordings([one], tmp_path / "a" / "segments", 16000, 10.0, 1.0)
    assert all(segment.path.resolve().is_relative_to(tmp_path / "a" / "segments") for segment, _ in parts)
    (tmp_path / "a" / "segments" / MARK).unlink()
    with pytest.raises(SpkverError, match="is not a folder of segments made here"):
        cut_recordings([one], tmp_path / "a" / "segments", 16000, 10.0, 1.0)
    assert parts[0][0].path.exists()


@needs_vad
def test_real_speakers_with_a_long_file_or_many_short_ones(speechocean762, tmp_path):
    """Half of the speakers read into one file: segments take its place, and same-file targets are told."""
    speaker_of, audio = (read_pairs(speechocean762 / "train" / name) for name in ("utt2spk", "wav.scp"))
    speakers = sorted(set(speaker_of.values()))[:10]
    root = tmp_path / "audio"
    for number, speaker in enumerate(speakers):
        paths = [speechocean762 / audio[utt] for utt in audio if speaker_of[utt] == speaker][:7]
        (root / speaker).mkdir(parents=True)
        if number % 2:
            for index, path in enumerate(paths):
                soundfile.write(root / speaker / f"{index}.ogg", read_audio(path, 16000), 16000)
            continue
        parts = [part for path in paths for part in (read_audio(path, 16000), np.zeros(24000, np.float32))]
        soundfile.write(root / speaker / "all.mp3", np.concatenate(parts), 16000)
    report = prepare_own_folder(root, tmp_path / "out", seed=3, limits=Limits(min_seconds=0.5, long_seconds=15))
    assert "5 long files" in str(report)
    of_long = [utterance for utterance in report.train + report.test if "/all.mp3/" in utterance.id]
    assert len(of_long) >= 5 * 5 and {utterance.path.suffix for utterance in of_long} == {".flac"}
    tested = {utterance.speaker for utterance in report.test}
    single = len(tested & set(speakers[::2]))
    assert 0 < single < len(tested)
    assert f"{single} of {len(tested)} test speakers have one recording only" in str(report)


def test_without_the_extra_a_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(voice_activity, "find_spec", lambda name: None)
    with pytest.raises(SpkverError, match=r"pip install -e '\.\[vad\]'") as caught:
        VoiceActivity()
    assert "\n" not in str(caught.value)


@needs_vad
def test_the_package_is_not_imported_as_it_would_take_torch_down_to_one_thread():
    before = "silero_vad" in sys.modules
    VoiceActivity()
    assert ("silero_vad" in sys.modules) == before
