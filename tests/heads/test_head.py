"""What holds for every head: shapes, types, labels, cutting, and building from a configuration."""

import pytest
import torch
from pydantic import BaseModel

from spkver.errors import SpkverError
from spkver.heads import (
    ArcMarginProduct,
    ArcMarginProductIntertopkSubcenter,
    NormFace,
    Softmax,
    build_head,
)

KINDS = [Softmax, NormFace, ArcMarginProduct, ArcMarginProductIntertopkSubcenter]
IN, CLASSES, BATCH = 16, 12, 7


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def head(request):
    torch.manual_seed(0)
    return request.param(IN, CLASSES)


@pytest.fixture
def embedding():
    return torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(1))


LABEL = torch.arange(BATCH)


def test_logits_are_one_a_class_in_float32(head, embedding):
    logits = head(embedding, LABEL)
    assert logits.shape == (BATCH, CLASSES)
    assert logits.dtype == torch.float32
    assert (head.in_features, head.out_features) == (IN, CLASSES)


def test_bfloat16_around_a_head_does_not_reach_into_it(head, embedding):
    rounded = embedding.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(rounded, LABEL)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(rounded.float(), LABEL))


def test_norm_of_the_embedding_does_not_matter_to_normalised_heads(head, embedding):
    if isinstance(head, Softmax):
        pytest.skip("plain softmax does not normalise")
    torch.testing.assert_close(head(1000 * embedding, LABEL), head(embedding, LABEL), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(head(embedding / 1000, LABEL), head(embedding, LABEL), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_label_out_of_range_is_refused_with_its_value(head, embedding, wrong):
    label = LABEL.clone()
    label[3] = wrong
    with pytest.raises(SpkverError, match=rf"label {wrong} is outside \[0, 12\)"):
        head(embedding, label)


@pytest.mark.parametrize("label", [LABEL[:, None], LABEL[:-1], LABEL.float(), LABEL.int()])
def test_label_of_another_shape_or_type_is_refused(head, embedding, label):
    with pytest.raises(ValueError, match=r"label must be \(7,\) int64"):
        head(embedding, label)


def test_update_is_accepted_by_every_head(head, embedding):
    head.update(0.3)
    assert getattr(head, "margin", 0.3) == 0.3
    assert head(embedding, LABEL).isfinite().all()


def test_cut_keeps_the_first_classes(head, embedding):
    before = head(embedding, LABEL % 3)
    weight = head.weight
    rows = len(weight) // CLASSES
    if isinstance(head, ArcMarginProductIntertopkSubcenter):
        head.update(0.0)  # without the penalty, which depends on the classes that are left
        before = head(embedding, LABEL % 3)
    head.cut(8)
    assert head.out_features == 8
    assert head.weight is weight and len(weight) == 8 * rows
    torch.testing.assert_close(head(embedding, LABEL % 3), before[:, :8])
    fresh = type(head)(IN, 8)
    fresh.load_state_dict(head.state_dict())


def test_a_cut_head_learns(head, embedding):
    head(embedding, LABEL).sum().backward()
    head.cut(8)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(head(embedding, LABEL), LABEL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("classes", [0, CLASSES + 1])
def test_cut_to_no_or_to_more_classes_is_refused(head, classes):
    with pytest.raises(SpkverError, match=rf"(12 classes to {classes}|with {classes} classes)"):
        head.cut(classes)
    assert head.out_features == CLASSES


def test_normface_is_scaled_cosine_and_softmax_is_linear(embedding):
    normface, softmax = NormFace(IN, CLASSES, scale=20.0), Softmax(IN, CLASSES)
    cosine = torch.nn.functional.cosine_similarity(embedding[:, None], normface.weight[None], dim=-1)
    torch.testing.assert_close(normface(embedding, LABEL), 20.0 * cosine)
    softmax.bias.data += torch.arange(CLASSES)
    expected = embedding @ softmax.weight.T + torch.arange(CLASSES)
    torch.testing.assert_close(softmax(embedding, LABEL), expected)


def test_softmax_without_a_bias_is_linear_and_can_be_cut(embedding):
    softmax = Softmax(IN, CLASSES, bias=False)
    torch.testing.assert_close(softmax(embedding, LABEL), embedding @ softmax.weight.T)
    softmax.cut(8)
    assert softmax(embedding, LABEL % 3).shape == (len(embedding), 8)
    assert "bias" not in softmax.state_dict()


class EveryHeadsConfig(BaseModel):
    """One flat model for all heads: a head takes what is its own."""

    name: str
    scale: float = 24.0
    margin: float = 0.3
    easy_margin: bool = True
    K: int = 2
    mp: float = 0.04
    k_top: int = 4
    do_lm: bool = False


@pytest.mark.parametrize(
    "name, kind",
    [
        ("softmax", Softmax),
        ("normface", NormFace),
        ("arc_margin", ArcMarginProduct),
        ("intertopk_subcenter", ArcMarginProductIntertopkSubcenter),
    ],
)
def test_build_head_takes_kind_and_values_from_the_config(name, kind):
    config = EveryHeadsConfig(name=name)
    head = build_head(config, IN, CLASSES)
    assert type(head) is kind
    for key, value in config.model_dump(exclude={"name"}).items():
        assert getattr(head, key, value) == value


def test_build_head_takes_a_config_of_its_own_keys_only():
    class ArcMarginConfig(BaseModel):
        name: str = "arc_margin"
        margin: float = 0.1

    assert build_head(ArcMarginConfig(), IN, CLASSES).margin == 0.1


def test_build_head_refuses_an_unknown_name():
    with pytest.raises(SpkverError, match=r"head\.name is 'arcface'.*intertopk_subcenter"):
        build_head(EveryHeadsConfig(name="arcface"), IN, CLASSES)


def test_build_head_names_k_top_when_classes_are_few():
    with pytest.raises(SpkverError, match=r"head\.k_top is 4 with 4 classes"):
        build_head(EveryHeadsConfig(name="intertopk_subcenter"), IN, 4)
