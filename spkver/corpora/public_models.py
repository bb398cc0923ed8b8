"""Public speaker models of other toolkits as ONNX files: where each lies, and how it is known to be the right one.

A file is taken only with the size and SHA-256 that stand here. They are those that its publisher's page, or several
projects that use the file, give.
"""

from dataclasses import dataclass
from pathlib import Path

from spkver.corpora.download import download
from spkver.errors import SpkverError

_WESPEAKER = "https://huggingface.co/Wespeaker"
_SHERPA = "https://github.com/k2-fsa/sherpa-onnx/releases/download/speaker-recongition-models"  # their spelling
_VOXCELEB = "trained on VoxCeleb2 dev (5,994 speakers, YouTube, mostly English)"


@dataclass(frozen=True)
class PublicModel:
    """An ONNX file; ``like`` is the toolkit whose features it takes."""

    url: str
    size: int  # bytes
    sha256: str
    licence: str
    trained_on: str
    like: str


MODELS = {
    "wespeaker-resnet34": PublicModel(
        f"{_WESPEAKER}/wespeaker-voxceleb-resnet34/resolve/ff1ac5bca8ef11e90662b879aa923979e0bd277b/voxceleb_resnet34.onnx",
        26_534_127,
        "9fea6516d7ad6bf0a76c7689f5a49b65d330fad6dde96c91bb4435ffbfe056a1",
        "CC BY 4.0 (WeSpeaker on its VoxCeleb models)",
        f"WeSpeaker's ResNet34, {_VOXCELEB}",
        "wespeaker",
    ),
    "wespeaker-resnet34-lm": PublicModel(
        f"{_WESPEAKER}/wespeaker-voxceleb-resnet34-LM/resolve/f0c48c298fd835726c27956a5d617bad7115627e/"
        "voxceleb_resnet34_LM.onnx",
        26_530_309,
        "7bb2f06e9df17cdf1ef14ee8a15ab08ed28e8d0ef5054ee135741560df2ec068",
        "CC BY 4.0 (WeSpeaker on its VoxCeleb models)",
        f"WeSpeaker's ResNet34 with large-margin fine-tuning, {_VOXCELEB}",
        "wespeaker",
    ),
    "3dspeaker-campplus-voxceleb": PublicModel(
        f"{_SHERPA}/3dspeaker_speech_campplus_sv_en_voxceleb_16k.onnx",
        29_596_978,
        "357a834f702b80161e5b981182c038e18553c1f2ca752ed6cec2052365d4129b",
        "Apache-2.0 (3D-Speaker)",
        f"3D-Speaker's CAM++, {_VOXCELEB}",
        "3dspeaker",
    ),
    "3dspeaker-campplus-zh-en": PublicModel(
        f"{_SHERPA}/3dspeaker_speech_campplus_sv_zh_en_16k-common_advanced.onnx",
        28_281_164,
        "aa3cfc16963a10586a9393f5035d6d6b57e98d358b347f80c2a30bf4f00ceba2",
        "Apache-2.0 (3D-Speaker)",
        "3D-Speaker's CAM++, trained on a large collection of Chinese and English speakers of its authors",
        "3dspeaker",
    ),
}


def fetch_model(name: str, folder: Path) -> Path:
    """Fetch a model's file into ``folder``, unless it is there; returns its path.

    Raises:
        SpkverError: there is no such model, its address has moved, or what came is not it.
    """
    if name not in MODELS:
        raise SpkverError(f"download-model: no model '{name}' (there are: {', '.join(MODELS)})")
    model = MODELS[name]
    try:
        return download(model.url, folder / f"{name}.onnx", checksum=model.sha256, size=model.size)
    except SpkverError as error:
        if "the server answers 404" not in str(error):
            raise
        raise SpkverError(
            f"{model.url}: is not there any more (404); get the file with SHA-256 {model.sha256} elsewhere, and "
            f"`spkver import-model FILE --like {model.like} EXP`"
        ) from None


def listing() -> str:
    """A line or two on each model."""
    return "\n".join(
        f"{name}\n    {model.trained_on}; {model.size / 1e6:.0f} MB; {model.licence}" for name, model in MODELS.items()
    )
