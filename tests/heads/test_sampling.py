"""Some of the classes in a step: which are drawn, what the loss of them is, and which rows move."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.errors import SpkverError
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter, NormFace, Softmax, draw_classes
from spkver.heads.chunked import chunked_loss
from spkver.training.optim import RowAdamW

CLASSES = 23
LABEL = torch.tensor([3, 22, 3, 0, 17])
HEADS = {
    "softmax": lambda: Softmax(8, CLASSES),
    "normface": lambda: NormFace(8, CLASSES),
    "arcface": lambda: ArcMarginProduct(8, CLASSES, margin=0.3),
    "intertopk sub-center": lambda: ArcMarginProductIntertopkSubcenter(8, CLASSES, K=3),
}


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    return HEADS[request.param]()


@given(st.lists(st.integers(0, 49), min_size=1, max_size=30), st.integers(1, 50))
@settings(deadline=None, max_examples=100)
def test_the_labels_own_classes_are_always_drawn_and_as_many_as_asked(labels, n_drawn):
    label = torch.tensor(labels)
    classes = draw_classes(label, 50, n_drawn)
    assert torch.isin(label, classes).all()
    assert len(classes) == min(max(n_drawn, len(labels)), 50)
    assert torch.equal(classes, classes.unique())
    assert int(classes.min()) >= 0 and int(classes.max()) < 50


def test_other_classes_are_drawn_equally_often():
    torch.manual_seed(0)
    counts = np.zeros(CLASSES)
    for _ in range(3000):
        counts[draw_classes(LABEL, CLASSES, 10).numpy()] += 1
    own = [0, 3, 17, 22]
    assert (counts[own] == 3000).all()
    # 6 of the 19 others a time: 947 each, standard deviation 25.
    assert np.abs(np.delete(counts, own) - 3000 * 6 / 19).max() < 4 * 25.5


def test_the_loss_of_drawn_classes_is_that_of_a_head_that_has_no_others(head):
    classes = draw_classes(LABEL, CLASSES, 12)
    place = torch.searchsorted(classes, LABEL)
    embedding = torch.randn(5, 8)
    logits = head.part(classes)(embedding, place)
    # The plain head where all other classes are as far away as can be: its penalty and softmax see the drawn ones only.
    rows = head.rows_of(classes, head.rows_per_class)
    alone = HEADS_OF[type(head)](len(classes))
    alone.load_state_dict(
        {name: value[rows if name == "weight" else classes] for name, value in head.state_dict().items()}
    )
    torch.testing.assert_close(logits, alone(embedding, place))
    chunked, _ = chunked_loss(head.part(classes), embedding, place, chunk_rows=4)
    torch.testing.assert_close(chunked, F.cross_entropy(logits, place))


HEADS_OF = {
    Softmax: lambda n: Softmax(8, n),
    NormFace: lambda n: NormFace(8, n),
    ArcMarginProduct: lambda n: ArcMarginProduct(8, n, margin=0.3),
    ArcMarginProductIntertopkSubcenter: lambda n: ArcMarginProductIntertopkSubcenter(8, n, K=3),
}


def test_a_part_has_too_few_classes_for_the_penalty():
    head = ArcMarginProductIntertopkSubcenter(8, CLASSES, K=2, k_top=5)
    with pytest.raises(SpkverError, match=r"head\.k_top is 5 with 4 classes"):
        head.part(torch.arange(4))


def test_rows_that_are_not_drawn_keep_every_bit(head):
    optimizer = RowAdamW(head, 0.1, (0.9, 0.98), 0.1)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    classes = draw_classes(LABEL, CLASSES, 8)
    place = torch.searchsorted(classes, LABEL)
    part = optimizer.use(classes)
    F.cross_entropy(part(torch.randn(5, 8), place), place).backward()
    optimizer.step()
    for name, value in head.state_dict().items():
        moved = torch.zeros(len(value), dtype=torch.bool)
        moved[head.rows_of(classes, len(value) // CLASSES)] = True
        assert torch.equal(value[~moved], before[name][~moved])
        changed = (value[moved] != before[name][moved]).view(int(moved.sum()), -1).any(1)
        # A sub-center that is the nearest of no item has no gradient; its row is decayed all the same.
        assert changed.all()


def test_with_all_classes_in_use_it_is_torchs_adamw(head):
    torch.manual_seed(1)
    twin = HEADS_OF[type(head)](CLASSES)
    twin.load_state_dict(head.state_dict())
    ours = RowAdamW(head, 0.01, (0.9, 0.98), 0.1)
    groups = [{"params": [p], "weight_decay": 0.1 * (p.dim() > 1)} for p in twin.parameters()]
    torchs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98))
    for _ in range(5):
        embedding = torch.randn(5, 8)
        part = ours.use(torch.arange(CLASSES))
        F.cross_entropy(part(embedding, LABEL), LABEL).backward()
        ours.step()
        torchs.zero_grad()
        F.cross_entropy(twin(embedding, LABEL), LABEL).backward()
        torchs.step()
    for mine, theirs in zip(head.parameters(), twin.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_row_corrects_its_moments_by_its_own_steps():
    head = NormFace(2, 3)
    with torch.no_grad():
        head.weight.fill_(1.0)
    optimizer = RowAdamW(head, 0.01, (0.9, 0.98), 0.0)
    for classes in ([0, 1], [0, 1], [0, 2]):
        part = optimizer.use(torch.tensor(classes))
        part.weight.grad = torch.ones_like(part.weight)
        optimizer.step()
    # The first step of AdamW on any row is the learning rate, and with a steady gradient so is every other.
    torch.testing.assert_close(head.weight[:, 0], torch.tensor([0.97, 0.98, 0.99]), rtol=0, atol=1e-6)


def test_its_state_is_taken_up_again(head):
    def steps(head, optimizer, n):
        for _ in range(n):
            classes = draw_classes(LABEL, CLASSES, 12)
            place = torch.searchsorted(classes, LABEL)
            part = optimizer.use(classes)
            F.cross_entropy(part(torch.randn(5, 8), place), place).backward()
            optimizer.step()

    optimizer = RowAdamW(head, 0.01, (0.9, 0.98), 0.1)
    steps(head, optimizer, 3)
    twin = HEADS_OF[type(head)](CLASSES)
    twin.load_state_dict(head.state_dict())
    resumed = RowAdamW(twin, 0.01, (0.9, 0.98), 0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.manual_seed(5)
    steps(head, optimizer, 3)
    torch.manual_seed(5)
    steps(twin, resumed, 3)
    assert all(torch.equal(one, other) for one, other in zip(head.parameters(), twin.parameters()))
