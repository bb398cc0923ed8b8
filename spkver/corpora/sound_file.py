"""Recordings as files of 16 bits."""

import io
from pathlib import Path

import numpy as np
import soundfile

from spkver.files import writing


def write_pcm16(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write a recording of 16 bits; its suffix says whether it is FLAC or WAV.

    It is made in memory: libsndfile does not say why a file could not be written.

    Args:
        samples: (n_samples,) float within -1 and 1, or int16.

    Raises:
        SpkverError: the file cannot be written.
    """
    content = io.BytesIO()
    soundfile.write(content, samples, sample_rate, format=path.suffix[1:], subtype="PCM_16")
    with writing(path):
        path.write_bytes(content.getbuffer())
