"""Embed recordings with an exported model, without torch or spkver (numpy, onnxruntime and soundfile are enough):

python onnx_embed.py model.onnx a.wav b.wav ...     prints the cosine of each pair, and the decision where one is known
"""

import sys
from itertools import combinations

import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
known = session.get_modelmeta().custom_metadata_map
rate = int(known["sample_rate"])
most = round(float(known["max_seconds"]) * rate)

waveforms = []
for path in sys.argv[2:]:
    samples, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    if file_rate != rate:
        sys.exit(f"{path}: {file_rate} Hz, the model wants {rate}: ffmpeg -i {path} -ar {rate} out.wav")
    start = max(len(samples) - most, 0) // 2  # of a long recording the middle
    waveforms.append(samples.mean(1)[start : start + most])

lengths = np.array([len(waveform) for waveform in waveforms])
padded = np.stack([np.pad(waveform, (0, lengths.max() - len(waveform))) for waveform in waveforms])
embeddings, _ = session.run(["embedding", "magnitude"], {"waveform": padded, "lengths": lengths})
for a, b in combinations(range(len(embeddings)), 2):
    cosine = embeddings[a] @ embeddings[b]
    same = f"  same speaker: {cosine >= float(known['threshold'])}" if known["threshold"] else ""
    print(f"{sys.argv[2 + a]}  {sys.argv[2 + b]}  {cosine:.4f}{same}")
