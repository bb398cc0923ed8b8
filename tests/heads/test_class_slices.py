"""Heads whose classes are divided: the slices' weights, and their loss and gradients beside those of the whole head."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from spkver.errors import SpkverError
from spkver.heads import (
    ArcMarginProduct,
    ArcMarginProductIntertopkSubcenter,
    ClassSlice,
    NormFace,
    Softmax,
    chunked_loss,
    draw_classes,
)
from spkver.training.optim import RowAdamW

# Slices of 11 and 12, of 7 and 8, of 5 and 6 classes: none divides.
BATCH, IN, CLASSES = 16, 8, 23
LABEL = torch.tensor([0, 1, 3, 4, 4, 5, 7, 8, 9, 10, 15, 16, 19, 20, 22, 22])

HEADS = {
    "softmax": lambda **held: Softmax(IN, CLASSES, **held),
    "softmax without bias": lambda **held: Softmax(IN, CLASSES, bias=False, **held),
    "normface": lambda **held: NormFace(IN, CLASSES, scale=20.0, **held),
    "arcface": lambda **held: ArcMarginProduct(IN, CLASSES, margin=0.5, **held),
    "easy arcface": lambda **held: ArcMarginProduct(IN, CLASSES, margin=0.3, easy_margin=True, **held),
    "intertopk sub-center": lambda **held: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=3, margin=0.4, **held),
    # More than a slice has.
    "intertopk of many": lambda **held: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=2, k_top=13, **held),
    "intertopk of all others": lambda **held: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=1, k_top=22, **held),
    "large margin": lambda **held: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=3, do_lm=True, **held),
}


def made(name, **held):
    torch.manual_seed(0)
    head = HEADS[name](**held)
    if getattr(head, "bias", None) is not None:
        of_all = torch.randn(CLASSES, generator=torch.Generator().manual_seed(1))
        head.bias.data = of_all[head.classes.start : head.classes.stop].clone()
    return head


def slices(name, size):
    return [made(name, class_slice=ClassSlice(rank, size)) for rank in range(size)]


def batch_of(head):
    """Some near their own class, some anywhere, of very different norms."""
    noise = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(2))
    share = torch.linspace(0, 1, BATCH)[:, None]
    own = head.weight.detach()[LABEL * head.rows_per_class]
    return torch.logspace(-1, 1, BATCH)[:, None] * (3 * (1 - share) * own + share * noise)


def loss_of_slices(heads, embedding, label, **options):
    """Each slice computes in a thread and gets the others' values; the loss's gradient goes through all."""
    found, barrier = [None] * len(heads), threading.Barrier(len(heads), timeout=60)

    def of(rank):
        def of_slices(values):
            found[rank] = values
            barrier.wait()
            return torch.stack(found)

        return chunked_loss(heads[rank], embedding, label, of_slices=of_slices, **options)

    with ThreadPoolExecutor(len(heads)) as pool:
        results = list(pool.map(of, range(len(heads))))
    assert all(torch.equal(loss, results[0][0]) and n == results[0][1] for loss, n in results)
    return results[0]


def assert_same(heads, whole, embedding, label, tolerance=1e-5, **options):
    """Loss, items that are right, and gradients of slices beside those of all logits of the whole head."""
    inputs = [embedding.clone().requires_grad_() for _ in range(2)]
    logits = whole(inputs[0], label)
    expected = F.cross_entropy(logits, label)
    loss, n_correct = loss_of_slices(heads, inputs[1], label, **options)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    assert n_correct == (logits.argmax(1) == label).sum()
    expected.backward()
    loss.backward()
    gradients = [(inputs[1].grad, inputs[0].grad)]
    for name, parameter in whole.named_parameters():
        gradients.append((torch.cat([head.get_parameter(name).grad for head in heads]), parameter.grad))
    for ours, other in gradients:
        torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", HEADS)
def test_loss_and_gradients_of_slices_are_the_whole_heads(way, name, size):
    for chunk_rows in (4, None):
        whole = made(name)
        assert_same(slices(name, size), whole, batch_of(whole), LABEL, chunk_rows=chunk_rows)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["softmax", "arcface", "intertopk sub-center"])
def test_loss_and_gradients_of_sampled_classes_are_those_of_the_whole_heads_sample(way, name, size):
    whole, heads = made(name), slices(name, size)
    embedding, label = batch_of(whole)[:5], torch.tensor([3, 22, 3, 0, 17])
    torch.manual_seed(4)
    classes = draw_classes(label, CLASSES, 9)
    parts = [head.part(classes) for head in heads]
    assert [place for part in parts for place in part.classes] == list(range(9))
    assert_same(parts, whole.part(classes), embedding, torch.searchsorted(classes, label))


def test_a_slice_none_of_whose_classes_is_drawn_has_its_part_in_the_loss(way):
    whole, heads = made("arcface"), slices("arcface", 4)
    classes = torch.tensor([0, 2, 3, 12, 13, 22])  # none of 5 to 10
    label = torch.tensor([0, 5, 4])
    for products in ("float32", "bfloat16"):
        parts = [head.part(classes) for head in heads]
        assert [len(part.classes) for part in parts] == [3, 0, 2, 1]
        tolerance = 1e-5 if products == "float32" else 0.03
        assert_same(parts, whole.part(classes), batch_of(whole)[:3], label, tolerance, products=products)


def test_products_in_bfloat16_are_as_near_as_the_whole_heads(way):
    whole = made("intertopk sub-center")
    assert_same(slices("intertopk sub-center", 3), whole, batch_of(whole), LABEL, 0.05, products="bfloat16")


@pytest.mark.parametrize("name", HEADS)
def test_slices_have_the_weights_of_the_whole_head_in_their_order(name):
    torch.manual_seed(0)
    whole = HEADS[name]()
    # As torch itself draws them.
    torch.manual_seed(0)
    assert torch.equal(whole.weight, torch.nn.init.xavier_uniform_(torch.empty_like(whole.weight)))
    assert whole.row_length == pytest.approx(whole.weight.square().sum(1).mean().sqrt().item(), rel=0.1)
    for size in (2, 4, 23):
        heads = slices(name, size)
        assert [c for head in heads for c in head.classes] == list(range(CLASSES))
        assert max(len(head.classes) for head in heads) - min(len(head.classes) for head in heads) <= 1
        assert all(head.is_slice and head.out_features == CLASSES for head in heads)
        assert torch.equal(torch.cat([head.weight for head in heads]), whole.weight)


def test_a_long_way_to_the_first_row_is_drawn_in_pieces(monkeypatch):
    monkeypatch.setattr("spkver.heads.softmax._DRAWN_ROWS", 4)
    assert torch.equal(torch.cat([head.weight for head in slices("normface", 2)]), made("normface").weight)


def test_rows_of_sampled_classes_move_in_each_slice_as_in_the_whole_head():
    whole, heads = made("softmax"), slices("softmax", 3)
    optimizers = [RowAdamW(head, 0.1, (0.9, 0.98), 0.1) for head in [whole, *heads]]
    classes = torch.tensor([0, 3, 6, 7, 8, 22])
    for step in range(2):
        for optimizer in optimizers:
            part = optimizer.use(classes)
            for parameter in part.parameters():
                gradient = torch.randn(6, *parameter.shape[1:], generator=torch.Generator().manual_seed(step))
                parameter.grad = gradient[part.classes.start : part.classes.stop].clone()
            optimizer.step()
    for name, parameter in whole.named_parameters():
        assert torch.equal(torch.cat([head.get_parameter(name) for head in heads]), parameter)
        assert not torch.equal(parameter[22], made("softmax").get_parameter(name)[22])


def test_a_slice_cut_keeps_what_it_has_of_the_first_classes():
    heads = slices("softmax", 3)
    for head in heads:
        head.cut(10)
    assert [head.classes for head in heads] == [range(7), range(7, 10), range(10, 10)]
    assert [tuple(head.weight.shape) + tuple(head.bias.shape) for head in heads] == [(7, 8, 7), (3, 8, 3), (0, 8, 0)]


def test_a_slice_alone_has_no_logits_of_all_classes_and_refuses_labels_outside_all():
    head = slices("arcface", 2)[0]
    with pytest.raises(ValueError, match="a slice of 11 of 23 classes has no logits of all"):
        head(torch.randn(2, IN), torch.tensor([0, 1]))
    with pytest.raises(SpkverError, match=r"label 23 is outside \[0, 23\)"):
        chunked_loss(head, torch.randn(2, IN), torch.tensor([0, 23]))
