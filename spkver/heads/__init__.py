"""Heads: embedding and speaker index -> logits for cross-entropy. ``build_head`` makes the configured one."""

import inspect

from spkver.config import schema
from spkver.errors import SpkverError
from spkver.heads.arc_margin import ArcMarginProduct
from spkver.heads.chunked import chunked_loss
from spkver.heads.intertopk_subcenter import ArcMarginProductIntertopkSubcenter
from spkver.heads.sampling import draw_classes
from spkver.heads.softmax import WHOLE, ClassSlice, Head, NormFace, Softmax

__all__ = [
    "WHOLE",
    "ArcMarginProduct",
    "ArcMarginProductIntertopkSubcenter",
    "ClassSlice",
    "Head",
    "NormFace",
    "Softmax",
    "build_head",
    "chunked_loss",
    "draw_classes",
]

HEADS: dict[str, type[Head]] = {
    "softmax": Softmax,
    "normface": NormFace,
    "arc_margin": ArcMarginProduct,
    "intertopk_subcenter": ArcMarginProductIntertopkSubcenter,
}


def build_head(config: schema.Head, in_features: int, out_features: int, class_slice: ClassSlice = WHOLE) -> Head:
    """The head that ``config.name`` names, with those of the config's values that it has a use for.

    Args:
        config: a pydantic model: ``name`` and the constructors' arguments (scale, margin, K, ...).
        in_features: of the embedding.
        out_features: number of classes.
        class_slice: those whose rows are held here, see `Head`.

    Raises:
        SpkverError: the name is not known, or a value does not fit the number of classes.
    """
    if config.name not in HEADS:
        raise SpkverError(f"head.name is {config.name!r}: choose one of {', '.join(HEADS)}")
    head = HEADS[config.name]
    takes = inspect.signature(head).parameters
    arguments = {key: value for key, value in config.model_dump().items() if key in takes}
    return head(in_features, out_features, **arguments, class_slice=class_slice)
