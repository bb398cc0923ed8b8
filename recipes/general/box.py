"""Make the folder that comes with spkver of a trained experiment: weights, settings, calibration, an ONNX file.

    python recipes/general/box.py EXP TRAIN OUT

EXP is the experiment, TRAIN its data directory (the ONNX file is checked by the speech in it). What tells of the
machine stays at home, and so do the head and the names of the speakers.
"""

import argparse
import json
import shutil
from pathlib import Path

from spkver.config import complete, dump_config
from spkver.data.directory import read_data_directory
from spkver.experiment.model_folder import load_model, read_speakers
from spkver.export.huggingface import KEPT_OF_RUN
from spkver.export.onnx_file import export_onnx
from spkver.files import atomic_write

UNSEEN = "test/speechocean762"


def make_box(exp: Path, train: Path, out: Path) -> str:
    """Write the folder; returns a line on the ONNX file."""
    model = load_model(exp / "model")
    (out / "backend").mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "backend/calibration-cosine.json", "backend/weights"):
        shutil.copyfile(model.folder / name, out / name)
    kept = {name: model.run[name] for name in KEPT_OF_RUN if name in model.run}
    kept["about"] = about(len(read_speakers(model.folder) or []), json.loads((exp / "metrics.json").read_text()))
    # No class of the head is handed on, so whoever trains on from here begins with new ones.
    without_noise = ["augment.noise.probability=0", "augment.noise.list=null"]  # its list has a place on this machine
    config = complete(model.config, without_noise, str(exp))
    texts = {"config.yaml": dump_config(config, kept), "speakers": ""}
    for name, text in texts.items():
        with atomic_write(out / name) as file:
            file.write(text)
    return export_onnx(out, out / "general_int8.onnx", int8=True, data=read_data_directory(train))


def about(n_speakers: int, metrics: dict) -> str:
    """What the model says of itself where nobody chose it."""
    measured = metrics[UNSEEN]["cosine+calibration"]  # the system that decides
    return (
        f"The general model of spkver decides, trained on {n_speakers:,} people of speechocean762 and Speech Commands; "
        f"on {measured['speakers']} people that it never met, equal error {measured['eer']:.1%}."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("exp", "train", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    print(make_box(options.exp, options.train, options.out))
