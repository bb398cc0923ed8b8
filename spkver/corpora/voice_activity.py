"""Where somebody speaks in a long recording, and the segments to cut it into.

Speech is found by Silero VAD (https://github.com/snakers4/silero-vad, MIT), whose package brings its model along; it is
run by onnxruntime alone, without importing the package. The rules from probabilities to segments are here.
What is cut here is trained on ever after, so it is worth a model; `spkver.data.vad` finds speech by energy alone, and
needs none.
"""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError

SAMPLE_RATE = 16000
FRAME = 512
"""Samples (32 ms) that the model gives one probability for."""

_CONTEXT = 64  # samples of the frame before, that the model wants too
_FRAMES_AT_ONCE = 2048
_STATE = (1, 1, 128)

# Speech begins at the first threshold and ends where it stays below the second one for a while.
_BEGIN, _END = 0.5, 0.35
_SHORTEST_PAUSE_SECONDS = 0.2
_SHORTEST_SPEECH_SECONDS = 0.25
_PAD_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0  # within a segment


class VoiceActivity:
    """Silero VAD on one thread; it may be called from several.

    Raises:
        SpkverError: the extra ``vad`` is not installed.
    """

    def __init__(self) -> None:
        model = _model_file()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = (
            3  # the file holds a few weights that are not used, which it would report otherwise
        )
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """The probability of speech in each frame: ``(n_samples,)`` at 16 kHz -> ``(ceil(n_samples / 512),)``."""
        frames = np.zeros((-(-len(samples) // FRAME), FRAME), np.float32)
        frames.reshape(-1)[: len(samples)] = samples
        before = np.zeros((len(frames), _CONTEXT), np.float32)
        before[1:] = frames[:-1, -_CONTEXT:]
        hidden, cell = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(frames), _FRAMES_AT_ONCE):
            part = slice(start, start + _FRAMES_AT_ONCE)
            inputs = {"input": np.hstack([before[part], frames[part]]), "h": hidden, "c": cell}
            probabilities, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            parts.append(probabilities)
        return np.concatenate(parts)


def speech_segments(
    probabilities: np.ndarray, max_seconds: float, min_seconds: float, frame_seconds: float = FRAME / SAMPLE_RATE
) -> list[tuple[float, float]]:
    """Segments of a recording to use: speech with its short pauses, none longer than ``max_seconds``.

    Stretches of speech are joined while the pause between them is at most a second and the whole is short enough.
    One that is too long alone is cut where speech is least likely, in its middle half.

    Args:
        probabilities: (n_frames,) of speech.
        max_seconds: of a segment.
        min_seconds: shorter ones are left out.
        frame_seconds: of one frame.

    Returns:
        ``(start, end)`` in seconds, ascending, none overlapping.
    """
    longest = max(1, int(max_seconds / frame_seconds))
    pieces = [
        piece
        for stretch in _stretches(probabilities, frame_seconds)
        for piece in _cut(probabilities, *stretch, longest)
    ]
    pause = round(_LONGEST_PAUSE_SECONDS / frame_seconds)
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined and start - joined[-1][1] <= pause and end - joined[-1][0] <= longest:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    seconds = [(start * frame_seconds, end * frame_seconds) for start, end in joined]
    return [(start, end) for start, end in seconds if end - start >= min_seconds]


def _stretches(probabilities: np.ndarray, frame_seconds: float) -> list[tuple[int, int]]:
    """Frames from which and up to which somebody speaks, padded on both sides."""
    pause = _SHORTEST_PAUSE_SECONDS / frame_seconds
    found: list[tuple[int, int]] = []
    begun: tuple[int, int] | None = None  # the first frame of a stretch, and its last one with speech so far
    for frame in np.flatnonzero(probabilities >= _END).tolist():
        if begun is not None and frame - begun[1] > pause:
            found.append((begun[0], begun[1] + 1))
            begun = None
        if begun is None and probabilities[frame] < _BEGIN:
            continue
        begun = (frame if begun is None else begun[0], frame)
    if begun is not None:
        found.append((begun[0], begun[1] + 1))
    shortest, pad = _SHORTEST_SPEECH_SECONDS / frame_seconds, round(_PAD_SECONDS / frame_seconds)
    kept = [(start, end) for start, end in found if end - start >= shortest]
    # Neighbours share the pause between them.
    edges = [0, *((end + start) // 2 for (_, end), (start, _) in pairwise(kept)), len(probabilities)]
    return [(max(start - pad, low), min(end + pad, high)) for (start, end), low, high in zip(kept, edges, edges[1:])]


def _cut(probabilities: np.ndarray, start: int, end: int, longest: int) -> list[tuple[int, int]]:
    if end - start <= longest:
        return [(start, end)]
    quarter = (end - start) // 4
    middle = start + quarter + 1 + int(np.argmin(probabilities[start + quarter + 1 : end - quarter]))
    return _cut(probabilities, start, middle, longest) + _cut(probabilities, middle, end, longest)


def _model_file() -> Path:
    package = find_spec("silero_vad")
    if package is None or not package.submodule_search_locations or find_spec("onnxruntime") is None:
        raise SpkverError(
            "long recordings are cut by voice activity, which needs the extra vad: pip install -e '.[vad]' "
            "(or keep them whole by a larger --long-seconds)"
        )
    model = Path(package.submodule_search_locations[0]) / "data" / "silero_vad_16k_sequence.onnx"
    if not model.is_file():
        raise SpkverError(f"{model}: missing; this silero-vad is too old, run pip install -U '.[vad]'")
    return model
