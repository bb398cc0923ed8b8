"""Sub-centers and the inter-topk penalty against a slow reference, and the faults other toolkits have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.errors import SpkverError
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter
from spkver.heads.intertopk_subcenter import top_k_others


def slow_logits(head, embedding: torch.Tensor, label: torch.Tensor, mp_eff: float) -> torch.Tensor:
    """Element by element: nearest sub-center, sort the others, turn the angles."""
    rows = []
    for vector, target in zip(embedding.tolist(), label.tolist()):
        cosines = []
        for c in range(head.out_features):
            subcenters = head.weight[c * head.K : (c + 1) * head.K].tolist()
            norms = [math.hypot(*vector) * math.hypot(*w) for w in subcenters]
            cosines.append(max(sum(v * x for v, x in zip(vector, w)) / n for w, n in zip(subcenters, norms)))
        others = sorted((c for c in range(head.out_features) if c != target), key=lambda c: -cosines[c])
        row = list(cosines)
        for c in others[: head.k_top]:
            row[c] = math.cos(math.acos(cosines[c]) - mp_eff)
        theta = math.acos(cosines[target])
        inside = theta + head.margin < math.pi
        row[target] = math.cos(theta + head.margin) if inside else cosines[target] - 1 + math.cos(head.margin)
        rows.append([head.scale * value for value in row])
    return torch.tensor(rows)


def random_batch(n_items: int = 16, in_features: int = 6, classes: int = 9):
    generator = torch.Generator().manual_seed(5)
    embedding = torch.randn(n_items, in_features, generator=generator)
    return embedding, torch.randint(classes, (n_items,), generator=generator)


@pytest.mark.parametrize("margin", [0.1, 0.2, 0.5])
def test_logits_equal_the_slow_reference_without_update(margin):
    torch.manual_seed(0)
    embedding, label = random_batch()
    head = ArcMarginProductIntertopkSubcenter(6, 9, margin=margin, mp=0.06, k_top=3)
    expected = slow_logits(head, embedding, label, mp_eff=0.06 * margin / 0.2)
    torch.testing.assert_close(head(embedding, label), expected, rtol=0, atol=1e-4)


def test_logits_equal_the_one_hot_form_of_other_toolkits():
    # WeSpeaker's and ESPnet's form once a scheduler has called update: three masked copies of the cosines.
    torch.manual_seed(0)
    embedding, label = random_batch(n_items=64)
    head = ArcMarginProductIntertopkSubcenter(6, 9)
    pairs = torch.nn.functional.cosine_similarity(embedding[:, None], head.weight[None], dim=-1)
    cosine = pairs.reshape(64, 9, 3).amax(2)
    sine = (1 - cosine**2).sqrt()
    target = torch.nn.functional.one_hot(label, 9)
    topk = torch.zeros(64, 9).scatter(1, (cosine - 2 * target).topk(5).indices, 1.0)
    away = torch.where(
        cosine > math.cos(math.pi - 0.2),
        cosine * math.cos(0.2) - sine * math.sin(0.2),
        cosine - (1 + math.cos(math.pi - 0.2)),
    )
    nearer = cosine * math.cos(0.06) + sine * math.sin(0.06)
    expected = 32.0 * (target * away + topk * nearer + (1 - target - topk) * cosine)
    torch.testing.assert_close(head(embedding, label), expected, rtol=0, atol=1e-4)


def test_penalty_follows_the_margin():
    head = ArcMarginProductIntertopkSubcenter(6, 9, margin=0.2, mp=0.06)
    assert head.penalty == pytest.approx(0.06)
    head.update(0.5)
    assert head.penalty == pytest.approx(0.15)
    head.update(0.0)
    assert head.penalty == 0


def test_margin_zero_leaves_the_cosines_as_they_are():
    embedding, label = random_batch()
    head = ArcMarginProductIntertopkSubcenter(6, 9, margin=0.0)
    torch.testing.assert_close(head(embedding, label), 32.0 * head.cosine(embedding), rtol=0, atol=1e-5)


def test_exactly_k_top_others_are_raised_and_the_target_is_lowered():
    torch.manual_seed(0)
    embedding, label = random_batch(n_items=200)
    head = ArcMarginProductIntertopkSubcenter(6, 9, k_top=4)
    change = head(embedding, label) - 32.0 * head.cosine(embedding)
    assert (change.gather(1, label[:, None]) < 0).all()
    others = change.scatter(1, label[:, None], 0.0)
    assert ((others > 1e-3).sum(1) == 4).all()
    assert (others.abs() > 1e-3).sum(1).tolist() == [4] * 200


@settings(max_examples=50)
@given(st.data())
def test_hardest_others_are_the_highest_that_are_not_the_target(data):
    k_top = data.draw(st.integers(1, 4))
    classes = data.draw(st.integers(k_top + 1, 8))
    # Coarse values, so that ties with the target occur.
    values = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])
    row = torch.tensor([data.draw(st.lists(values, min_size=classes, max_size=classes))])
    target = data.draw(st.integers(0, classes - 1))
    chosen = top_k_others(row, torch.tensor([target]), k_top)[0].tolist()
    assert target not in chosen
    assert len(set(chosen)) == k_top
    others = [row[0, c].item() for c in range(classes) if c != target]
    assert sorted(row[0, chosen].tolist(), reverse=True) == sorted(others, reverse=True)[:k_top]


def test_large_margin_finetuning_is_sub_center_arcface():
    torch.manual_seed(0)
    embedding, label = random_batch()
    head = ArcMarginProductIntertopkSubcenter(6, 9, margin=0.5, K=1, do_lm=True)
    assert (head.mp, head.k_top, head.penalty) == (0.0, 0, 0.0)
    plain = ArcMarginProduct(6, 9, margin=0.5)
    plain.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(embedding, label), plain(embedding, label))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("on_target", [True, False])
def test_gradients_are_finite_on_a_sub_center(sign, on_target):
    # On a sub-center that is not the target's, the cosine of 1 is the first that inter-topk takes. At -1,
    # all sub-centers of a class are the same vector, and so many classes are penalised that -1 is among them.
    head = ArcMarginProductIntertopkSubcenter(4, 4, margin=0.5, K=2, k_top=3)
    head.weight.data = torch.eye(4).repeat_interleave(2, dim=0)
    embedding = (sign * torch.eye(4)).requires_grad_()
    label = torch.arange(4) if on_target else torch.tensor([1, 2, 3, 0])
    assert head.cosine(embedding).diagonal().tolist() == [sign] * 4
    torch.nn.functional.cross_entropy(head(embedding, label), label).backward()
    assert embedding.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_not_more_classes_than_k_top_are_refused():
    with pytest.raises(SpkverError, match=r"head\.k_top is 5 with 5 classes"):
        ArcMarginProductIntertopkSubcenter(6, 5)
    ArcMarginProductIntertopkSubcenter(6, 6)
    ArcMarginProductIntertopkSubcenter(6, 2, do_lm=True)


def test_no_sub_center_is_refused():
    with pytest.raises(SpkverError, match=r"head\.K is 0"):
        ArcMarginProductIntertopkSubcenter(6, 9, K=0)


def test_cut_keeps_whole_classes_and_their_logits():
    torch.manual_seed(0)
    embedding, _ = random_batch()
    head = ArcMarginProductIntertopkSubcenter(6, 27, K=3, do_lm=True)
    label = torch.arange(16) % 9
    before = head(embedding, label)
    head.cut(9)
    assert head.weight.shape == (27, 6)
    torch.testing.assert_close(head(embedding, label), before[:, :9])


def test_cut_to_k_top_classes_is_refused_and_leaves_the_head_whole():
    head = ArcMarginProductIntertopkSubcenter(6, 27)
    with pytest.raises(SpkverError, match=r"head\.k_top is 5 with 5 classes"):
        head.cut(5)
    assert head.weight.shape == (81, 6)
