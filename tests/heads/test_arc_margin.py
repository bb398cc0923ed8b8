"""The additive angular margin against a slow reference, at its fallback, and at cosine +-1."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spkver.errors import SpkverError
from spkver.heads import ArcMarginProduct
from spkver.heads.arc_margin import add_angle, penalise

MARGINS = [0.0, 0.1, 0.2, 0.5]


def slow_penalty(cosine: float, margin: float, easy_margin: bool) -> float:
    """cos(theta + margin) by way of the angle itself, in double precision."""
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    if easy_margin:
        return math.cos(theta + margin) if theta < math.pi / 2 else cosine
    return math.cos(theta + margin) if theta + margin < math.pi else cosine - 1.0 + math.cos(margin)


def slow_logits(head: ArcMarginProduct, embedding: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    rows = []
    for vector, target in zip(embedding.tolist(), label.tolist()):
        row = []
        for c, weight in enumerate(head.weight.tolist()):
            cosine = sum(v * w for v, w in zip(vector, weight)) / (math.hypot(*vector) * math.hypot(*weight))
            if c == target:
                cosine = slow_penalty(cosine, head.margin, head.easy_margin)
            row.append(head.scale * cosine)
        rows.append(row)
    return torch.tensor(rows)


def random_batch(n_items: int = 16, in_features: int = 6, classes: int = 9):
    generator = torch.Generator().manual_seed(3)
    embedding = 4 * torch.randn(n_items, in_features, generator=generator)
    return embedding, torch.randint(classes, (n_items,), generator=generator)


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margin", MARGINS)
def test_logits_equal_the_slow_reference(margin, easy_margin):
    torch.manual_seed(0)
    embedding, label = random_batch()
    head = ArcMarginProduct(6, 9, scale=30.0, margin=margin, easy_margin=easy_margin)
    torch.testing.assert_close(head(embedding, label), slow_logits(head, embedding, label), rtol=0, atol=1e-4)


@pytest.mark.parametrize("margin", MARGINS)
def test_logits_equal_the_one_hot_form_of_other_toolkits(margin):
    # WeSpeaker's and ESPnet's form: both versions of every cosine, mixed by a one-hot mask.
    torch.manual_seed(0)
    embedding, label = random_batch(n_items=64)
    head = ArcMarginProduct(6, 9, margin=margin)
    cosine = torch.nn.functional.cosine_similarity(embedding[:, None], head.weight[None], dim=-1)
    with_margin = cosine * math.cos(margin) - (1 - cosine**2).sqrt() * math.sin(margin)
    beyond = cosine <= math.cos(math.pi - margin)
    with_margin[beyond] = (cosine - (1 + math.cos(math.pi - margin)))[beyond]
    target = torch.nn.functional.one_hot(label, 9)
    expected = 32.0 * (target * with_margin + (1 - target) * cosine)
    torch.testing.assert_close(head(embedding, label), expected, rtol=0, atol=1e-4)


@given(st.floats(-1, 1), st.floats(-1, 1), st.sampled_from(MARGINS))
def test_penalty_keeps_the_order_of_cosines_and_never_raises(first, second, margin):
    low, high = sorted([first, second])
    before = torch.tensor([low, high])
    after = penalise(before, margin, easy_margin=False)
    assert after[0] <= after[1] + 1e-6
    # At cosine 1 itself the clamp moves the angle by 5e-4.
    assert (after <= before + 1e-6).all()


@pytest.mark.parametrize("margin", [0.1, 0.2, 0.5])
def test_fallback_meets_the_curve_at_pi_less_margin(margin):
    theta = torch.tensor([math.pi - margin - 1e-3, math.pi - margin + 1e-3], dtype=torch.float64)
    before, after = penalise(theta.cos(), margin, easy_margin=False).tolist()
    assert before == pytest.approx(-1.0, abs=1e-5)
    assert after == pytest.approx(-1.0, abs=1e-3)


def test_the_hardest_items_keep_a_gradient():
    cosine = torch.tensor([-1.0, -0.99, -0.95], requires_grad=True)
    penalise(cosine, 0.5, easy_margin=False).sum().backward()
    assert cosine.grad.tolist() == [1.0, 1.0, 1.0]


@given(st.floats(-0.999, 0.999), st.floats(-1, 1))
def test_add_angle_turns_by_the_angle(cosine, angle):
    turned = add_angle(torch.tensor([cosine], dtype=torch.float64), angle).item()
    assert turned == pytest.approx(math.cos(math.acos(cosine) + angle), abs=1e-9)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0000002, -1.0000002])
def test_a_cosine_of_one_is_taken_as_an_angle_just_off_the_axis(cosine):
    # Releases of torch differ in the gradient of clamp at its limits; off the axis, every one is finite.
    sine = -add_angle(torch.tensor([cosine]), math.pi / 2).item()
    assert 3e-4 < sine < 1.5e-3


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("on_target", [True, False])
def test_gradients_are_finite_on_a_class_centre(sign, on_target, easy_margin):
    head = ArcMarginProduct(4, 4, margin=0.5, easy_margin=easy_margin)
    head.weight.data = torch.eye(4)
    embedding = (sign * torch.eye(4)).requires_grad_()
    label = torch.arange(4) if on_target else torch.tensor([1, 2, 3, 0])
    assert head.cosine(embedding).diagonal().tolist() == [sign] * 4
    torch.nn.functional.cross_entropy(head(embedding, label), label).backward()
    assert embedding.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_gradients_are_finite_where_rounding_takes_the_cosine_past_one():
    past_one = 0
    for seed in range(40):
        torch.manual_seed(seed)
        head = ArcMarginProduct(192, 20)
        embedding = (3 * head.weight.detach()).requires_grad_()
        past_one += int((head.cosine(embedding) > 1).any())
        torch.nn.functional.cross_entropy(head(embedding, torch.arange(20)), torch.arange(20)).backward()
        assert embedding.grad.isfinite().all()
        assert head.weight.grad.isfinite().all()
    assert past_one > 10, "the case under test did not occur"


def test_update_sets_the_margin():
    torch.manual_seed(0)
    embedding, label = random_batch()
    head = ArcMarginProduct(6, 9, margin=0.0)
    head.update(0.35)
    torch.testing.assert_close(head(embedding, label), slow_logits(head, embedding, label), rtol=0, atol=1e-4)
    assert head.margin == 0.35


@pytest.mark.parametrize("margin", [-0.1, math.pi, float("nan")])
def test_a_margin_outside_its_range_is_refused(margin):
    with pytest.raises(SpkverError, match=r"head\.margin is"):
        ArcMarginProduct(6, 9, margin=margin)
