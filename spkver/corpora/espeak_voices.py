"""Made-up speakers for the built-in corpus: random voices, spoken by the formant synthesiser espeak-ng.

A voice is a set of numbers in espeak-ng's voice file: where the formants lie (the length and shape of
the vocal tract), the range of the pitch, breath, roughness, flutter, tone, pace and an English accent.
The library comes from the optional package ``espeakng-loader`` and is called through ctypes. It keeps
its state in globals: one synthesiser a process, and no threads.
"""

import _ctypes
import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError

SAMPLE_RATE = 22050
ACCENTS = (
    "en-us",
    "en-us-nyc",
    "en",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)

_SYNCHRONOUS, _DONT_EXIT, _UTF8, _CHARACTERS = 2, 0x8000, 1, 1
_RATE, _VOLUME, _PITCH = 1, 2, 3
# The whole data is 19 MB; these files are all that English needs.
_DATA_FILES = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_ENGLISH = "lang/gmw"
_VARIANTS = "espeak-ng-data/voices/!v"
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """One made-up speaker.

    Attributes:
        name: its name, also the name of its file.
        gender: ``m`` or ``f``.
        accent: one of ``ACCENTS``.
        rate: words a minute that it is used to speak.
        lines: the lines of its espeak-ng voice file, without the name.
    """

    name: str
    gender: str
    accent: str
    rate: float
    lines: tuple[str, ...]


def draw_voice(name: str, gender: str, rng: np.random.Generator) -> Voice:
    """Draw a voice at random.

    Formants are scaled together by the vocal tract's length and each by a little of its own; means of
    pitch and of formant scale lie apart for ``m`` and ``f`` and overlap at the edges, as in people.
    """
    male = gender == "m"
    pitch = rng.normal(112, 20) if male else rng.normal(195, 28)
    pitch = float(np.clip(pitch, 72, 270))
    reach = rng.uniform(1.2, 1.7)  # the highest pitch of the voice over its lowest
    tract = rng.normal(0.95, 0.05) if male else rng.normal(1.09, 0.055)
    lines = [f"pitch {pitch / reach**0.5:.0f} {pitch * reach**0.5:.0f}"]
    for formant in range(9):
        own = rng.normal(1, 0.035) if formant else 1.0
        height = rng.uniform(70, 130)
        width = rng.uniform(75, 150)
        lines.append(f"formant {formant} {100 * tract * own:.0f} {height:.0f} {width:.0f}")
    low, middle, high = rng.uniform(90, 180), rng.uniform(80, 170), rng.uniform(60, 160)
    lines.append(f"tone 600 {low:.0f} 1500 {middle:.0f} 3500 {high:.0f}")
    breath = rng.uniform(0, 12) if rng.random() < 0.6 else 0.0
    lines.append("breath 0 " + " ".join(f"{breath * rng.uniform(0.6, 1.2):.0f}" for _ in range(5)))
    lines.append(f"roughness {rng.integers(0, 5)}")
    lines.append(f"flutter {rng.integers(0, 12)}")
    lines.append(f"voicing {rng.uniform(75, 120):.0f}")
    lines.append(f"consonants {rng.uniform(70, 140):.0f} {rng.uniform(70, 130):.0f}")
    return Voice(name, gender, str(rng.choice(ACCENTS)), float(rng.normal(160, 16)), tuple(lines))


def write_voices(folder: str | Path, voices: list[Voice]) -> Path:
    """Make the data folder of a ``Synthesiser``: espeak-ng's English data and the voices' files.

    Raises:
        SpkverError: the package ``espeakng-loader`` is not installed, or is not as expected.
    """
    folder = Path(folder)
    source = Path(_loader().get_data_path())
    data = folder / "espeak-ng-data"
    try:
        shutil.copytree(source / _ENGLISH, data / _ENGLISH)
        for name in _DATA_FILES:
            shutil.copyfile(source / name, data / name)
    except FileNotFoundError as error:
        raise SpkverError(
            f"{error.filename}: the package espeakng-loader lacks it; reinstall: pip install spkver[mini]"
        ) from None
    variants = folder / _VARIANTS
    variants.mkdir(parents=True)
    for voice in voices:
        text = "\n".join(("language variant", f"name {voice.name}", f"gender {voice.gender}", *voice.lines, ""))
        (variants / voice.name).write_text(text, encoding="ascii", newline="\n")
    return folder


class Synthesiser:
    """espeak-ng with the voices of one data folder (see ``write_voices``).

    The library carries random numbers, flutter and filter memory over from one sentence to the next. It
    is therefore loaded afresh for each (4 ms): a sentence's samples depend on the arguments alone,
    whatever was spoken before and in whichever process.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._library = _loader().get_library_path()

    def speak(self, text: str, voice: Voice, rate: float, pitch: float, seed: int) -> np.ndarray:
        """Speak ``text``.

        Args:
            rate: words a minute, 80 to 450.
            pitch: 0 to 100; 50 is the voice's own.
            seed: for the noises of breath and flutter.

        Returns:
            Samples in [-1, 1], shape ``(n_samples,)``, float32, at ``SAMPLE_RATE``.

        Raises:
            SpkverError: the synthesiser does not start, does not know the voice, or says nothing.
        """
        blocks: list[np.ndarray] = []

        @_Callback
        def collect(samples, count, _events):
            if samples and count > 0:
                blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        library = ctypes.CDLL(self._library)
        try:
            if library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(self._folder), _DONT_EXIT) != SAMPLE_RATE:
                raise SpkverError(f"espeak-ng does not start with the data in {self._folder}")
            library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
            library.espeak_SetSynthCallback(collect)
            # The library itself speaks in its default voice when it does not find the file.
            known = (self._folder / _VARIANTS / voice.name).is_file()
            if not known or library.espeak_SetVoiceByName(f"{voice.accent}+{voice.name}".encode()):
                raise SpkverError(f"espeak-ng has no voice '{voice.accent}+{voice.name}'")
            library.espeak_SetParameter(_RATE, round(rate), 0)
            library.espeak_SetParameter(_PITCH, round(pitch), 0)
            library.espeak_SetParameter(_VOLUME, 50, 0)  # at 100 loud voices clip
            bytes_ = text.encode()
            library.espeak_Synth(bytes_, ctypes.c_size_t(len(bytes_) + 1), 0, _CHARACTERS, 0, _UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _unload(library)
        if not blocks:
            raise SpkverError(f"espeak-ng said nothing as voice '{voice.name}': '{text}'")
        return np.concatenate(blocks).astype(np.float32) / 32768


def _unload(library: ctypes.CDLL) -> None:
    unload = "dlclose" if hasattr(_ctypes, "dlclose") else "FreeLibrary"  # the second on Windows
    getattr(_ctypes, unload)(library._handle)


def _loader():
    """The package that carries the library and its data."""
    try:
        import espeakng_loader
    except ImportError:
        raise SpkverError("the built-in corpus needs the synthesiser espeak-ng: pip install spkver[mini]") from None
    return espeakng_loader
