"""Small networks of a package that spkver does not know, for `model: {name: networks:Pooled}` and the like."""

import torch
from torch import nn


class Pooled(nn.Module):
    """Two convolutions with BatchNorms over filterbanks, and a masked mean over time."""

    def __init__(self, n_mels: int = 80, embed_dim: int = 16, width: int = 24, counts_padding: bool = False):
        super().__init__()
        self.counts_padding = counts_padding
        self.blocks = nn.Sequential(
            nn.Conv1d(n_mels, width, 1),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )
        self.embedding = nn.Linear(width, embed_dim)

    def forward(self, features, lengths=None):
        hidden = self.blocks(features.transpose(1, 2))
        if lengths is None or self.counts_padding:
            return self.embedding(hidden.mean(2))
        valid = torch.arange(hidden.shape[2], device=hidden.device) < lengths[:, None]
        return self.embedding((hidden * valid[:, None]).sum(2) / lengths[:, None])


class OfSamples(nn.Module):
    """A strided convolution over samples; gives a tuple whose last is the embedding."""

    def __init__(self, embed_dim: int = 16):
        super().__init__()
        self.conv = nn.Conv1d(1, 32, 400, stride=160)
        self.norm = nn.BatchNorm1d(32)
        self.embedding = nn.Linear(64, embed_dim)

    def forward(self, samples):
        hidden = self.norm(self.conv(samples[:, None]).abs().clamp_min(1e-4).log())
        pooled = torch.cat([hidden.mean(2), hidden.std(2)], 1)
        return pooled, self.embedding(pooled)


class AcrossTheBatch(nn.Module):
    """A recurrent network that takes the batch for time."""

    def __init__(self):
        super().__init__()
        self.network = nn.GRU(80, 8)

    def forward(self, features):
        return self.network(features)[0][:, -1]


class NotPooled(nn.Module):
    """Frames one behind another."""

    def forward(self, features):
        return features.flatten(1)


class Constant(nn.Module):
    """The same for everybody."""

    def forward(self, features):
        return torch.ones(len(features), 4)


class NotFinite(nn.Module):
    """Divides by nothing."""

    def forward(self, features):
        return features.mean(1) / 0


class Started(Pooled):
    """Built from something that a stored model does without."""

    def __init__(self, source: str | None = None, width: int | None = None):
        super().__init__(width=int(source or width))
        self.stored_args = {"width": int(source or width)}


def no_network() -> str:
    """A function that builds no network."""
    return "nothing"
