"""What an encoder is given of waveforms: filterbanks in the scale that it expects, or the samples themselves."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from spkver.config.schema import Filterbank, Waveform
from spkver.errors import SpkverError
from spkver.features.fbank import ENERGY_FLOOR, INT16_RANGE, Fbank, mean_normalise, zero_padding

# How far log energies of samples in [-1, 1] lie below those of the 16-bit range.
_UNIT_SCALE = 2 * math.log(INT16_RANGE)


class EncoderInput(nn.Module):
    """Waveforms to the input of an encoder, as the section ``features`` says.

    Args:
        features: that section.
        sample_rate: of the waveforms, in Hz.
        formant_factors: other vocal tracts, see `Fbank`.

    Raises:
        SpkverError: settings that give no filterbank, or formant factors where there is no spectrum to stretch.
    """

    def __init__(self, features: Filterbank | Waveform, sample_rate: int, formant_factors: Sequence[float] = (1.0,)):
        super().__init__()
        self.settings = features
        if isinstance(features, Waveform) and list(formant_factors) != [1.0]:
            raise SpkverError(
                "features.name=waveform has no spectrum whose formants could be moved: set "
                "augment.formant_factors=[1.0], and formant factors of 1.0 in scoring.variants"
            )
        filterbank = features if isinstance(features, Filterbank) else Filterbank()
        values = filterbank.model_dump(exclude={"name", "scale", "mean_normalisation"})
        self.fbank = Fbank(sample_rate, formant_factors=formant_factors, **values)
        """Of the 16-bit range; it also finds the speech in a recording, where the encoder takes samples, too."""

    def forward(
        self, waveforms: Tensor, lengths: Tensor | None = None, formants: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The input of an encoder for padded waveforms.

        Args:
            waveforms: (batch, n_samples), floating point in [-1, 1].
            lengths: (batch,) samples that are not padding; None: all are.
            formants: (batch,) which of the formant factors each item gets; None: the first.

        Returns:
            The features (batch, n_frames, n_mels), or the samples (batch, n_samples), zero where padded; how many
            of them belong to each item (batch,), None without ``lengths``; and the mean (batch, n_mels) that was
            subtracted from the features, or None.

        Raises:
            As `Fbank`.
        """
        if isinstance(self.settings, Waveform):
            return self.prepared(waveforms.float(), lengths)
        # One bank for all is the faster way where there is only one.
        formants = formants if len(self.fbank.mel) > 1 else None
        return self.prepared(*self.fbank(waveforms, lengths, formants))

    def prepared(self, features: Tensor, n_frames: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What `forward` returns, of log-mel energies of the 16-bit range or of samples."""
        if isinstance(self.settings, Waveform):
            samples = features * INT16_RANGE if self.settings.scale == "int16" else features
            return _without_padding(samples, n_frames), n_frames, None
        if self.settings.scale == "unit":
            features = _without_padding((features - _UNIT_SCALE).clamp_min(math.log(ENERGY_FLOOR)), n_frames)
        if not self.settings.mean_normalisation:
            return features, n_frames, None
        features, average = mean_normalise(features, n_frames)
        return features, n_frames, average


def _without_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return x
    padding = zero_padding(lengths.to(x.device), x.shape[1])
    return x.masked_fill(padding if x.dim() == 3 else padding[:, :, 0], 0.0)
