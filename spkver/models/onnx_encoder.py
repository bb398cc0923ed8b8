"""The network of an ONNX file as an encoder, run by onnxruntime."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.config import schema
from spkver.errors import SpkverError

_GPU = "CUDAExecutionProvider"


class OnnxEncoder(nn.Module):
    """Features, or samples, to embeddings by an ONNX file. It has no weights that torch knows, and cannot be trained.

    Args:
        file: the ONNX file.
        config: names of its input and output, and ``embed_dim``.
        device: a GPU is used where onnxruntime can; the CPU does it elsewhere.

    Raises:
        SpkverError: onnxruntime is not installed, or the file is damaged or has no such input or output.
    """

    masks_padding = False

    def __init__(self, file: Path, config: schema.OnnxEncoder, device: torch.device | None = None):
        super().__init__()
        self.session = open_session(file, device)
        self.embed_dim = config.embed_dim
        self.input, self.output = config.input, config.output
        for name, there in ((self.input, self.session.get_inputs()), (self.output, self.session.get_outputs())):
            if name not in {each.name for each in there}:
                raise SpkverError(f"{file}: has no '{name}' but {', '.join(each.name for each in there)}")

    def forward(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        """Embed a batch of utterances.

        Args:
            features: ``(batch, n_frames, n_mels)``, or samples ``(batch, n_samples)``.
            lengths: of each utterance ``(batch,)``; None when all are full.
            average: not looked at.

        Returns:
            ``(batch, embed_dim)`` float32, each of unit length.
        """
        return F.normalize(self.unnormalised(features, lengths, average), dim=1)

    def unnormalised(self, features: Tensor, lengths: Tensor | None = None, average: Tensor | None = None) -> Tensor:
        """The same as the file gives it."""
        # One after another: on one thread a batch is not faster, and nothing is padded.
        n_frames = [features.shape[1]] * len(features) if lengths is None else lengths.tolist()
        rows = [self.run(row[None, :n]) for row, n in zip(features, n_frames)]
        return torch.cat(rows).to(features.device)

    def run(self, features: Tensor) -> Tensor:
        """What the file gives for a batch, ``(batch, embed_dim)`` on the CPU."""
        (output,) = self.session.run([self.output], {self.input: features.float().cpu().numpy()})
        return torch.from_numpy(output).flatten(1).float()


def open_session(file: Path, device: torch.device | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` of one thread a call, as `spkver embed` calls it from each core.

    Raises:
        SpkverError: onnxruntime is not installed, or the file is no ONNX.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SpkverError(f"onnx: cannot import onnxruntime ({error}); pip install 'spkver[onnx]'") from None
    if not file.is_file():
        raise SpkverError(f"{file}: there is no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.intra_op_num_threads = 1
    providers: list[Any] = ["CPUExecutionProvider"]
    if device is not None and device.type == "cuda" and _GPU in onnxruntime.get_available_providers():
        providers.insert(0, (_GPU, {"device_id": device.index or 0, "use_tf32": 0}))
    try:
        return onnxruntime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # onnxruntime has a class of its own for each fault, and no common one
        raise SpkverError(f"{file}: cannot be read as ONNX ({' '.join(str(error).split())[:300]})") from None
