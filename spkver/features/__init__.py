"""Features: waveforms to log-mel filterbanks, and the masks of SpecAugment."""

from spkver.features.encoder_input import EncoderInput
from spkver.features.fbank import ENERGY_FLOOR, INT16_RANGE, PREEMPHASIS, Fbank, mean_normalise
from spkver.features.specaugment import SpecAugment

__all__ = ["ENERGY_FLOOR", "INT16_RANGE", "PREEMPHASIS", "EncoderInput", "Fbank", "SpecAugment", "mean_normalise"]
