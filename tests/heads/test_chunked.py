"""The chunked loss against the plain heads: values, gradients, accuracy, memory, and what it refuses."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from spkver import native
from spkver.errors import SpkverError
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter, NormFace, Softmax
from spkver.heads import chunked as chunked_module
from spkver.heads.chunked import chunked_loss, rows_a_chunk
from spkver.heads.chunked_native import FusedLogits
from spkver.heads.chunked_torch import ChunkPlan, LogitSummary

pytestmark = pytest.mark.usefixtures("way")

BATCH, IN, CLASSES = 16, 8, 23
# At the borders of chunks of 1, 2, 4, 5 and 23 classes, and some twice.
LABEL = torch.tensor([0, 1, 3, 4, 4, 5, 7, 8, 9, 10, 15, 16, 19, 20, 22, 22])

HEADS = {
    "softmax": lambda: Softmax(IN, CLASSES),
    "softmax without bias": lambda: Softmax(IN, CLASSES, bias=False),
    "normface": lambda: NormFace(IN, CLASSES, scale=20.0),
    "arcface": lambda: ArcMarginProduct(IN, CLASSES, margin=0.5),
    "easy arcface": lambda: ArcMarginProduct(IN, CLASSES, scale=30.0, margin=0.3, easy_margin=True),
    "intertopk": lambda: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=1),
    "intertopk sub-center": lambda: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=3, margin=0.4),
    "intertopk of all others": lambda: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=2, k_top=CLASSES - 1),
    "intertopk of all but one": lambda: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=2, k_top=CLASSES - 2),
    "large margin": lambda: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=3, margin=0.5, do_lm=True),
}


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    head = HEADS[request.param]()
    if getattr(head, "bias", None) is not None:
        head.bias.data.normal_()
    return head


@pytest.fixture
def embedding(head):
    """Some near their own class, some anywhere, of very different norms."""
    generator = torch.Generator().manual_seed(1)
    own = head.weight.detach()[LABEL * head.rows_per_class]
    noise = torch.randn(BATCH, IN, generator=generator)
    share = torch.linspace(0, 1, BATCH)[:, None]
    size = torch.logspace(-1, 1, BATCH)[:, None]
    return size * (3 * (1 - share) * own + share * noise)


def gradients(head, embedding, loss_of):
    """loss, what else comes with it, and the gradients of embedding and parameters."""
    embedding = embedding.clone().requires_grad_()
    loss, other = loss_of(embedding)
    # A factor other than 1, which the backward pass has to take up.
    return loss.detach(), other, torch.autograd.grad(2.5 * loss, [embedding, *head.parameters()])


def plain(head, label=LABEL):
    def loss_of(embedding):
        logits = head(embedding, label)
        return F.cross_entropy(logits, label), (logits.argmax(1) == label).sum()

    return loss_of


def chunked(head, label=LABEL, **options):
    return lambda embedding: chunked_loss(head, embedding, label, **options)


def assert_same(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours[0], expected[0], rtol=tolerance, atol=tolerance)
    assert ours[1] == expected[1]
    for mine, other in zip(ours[2], expected[2], strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("chunk_rows", [1, 4, 12, 15, 69, 10_000])
def test_loss_gradients_and_accuracy_equal_the_plain_heads(head, embedding, chunk_rows):
    expected = gradients(head, embedding, plain(head))
    assert 0 < expected[1] < BATCH
    assert_same(gradients(head, embedding, chunked(head, chunk_rows=chunk_rows)), expected)


def test_a_margin_set_by_the_schedule_is_followed(head, embedding):
    losses = []
    for margin in (0.0, 0.1, 0.5):
        head.update(margin)
        ours = gradients(head, embedding, chunked(head, chunk_rows=12))
        assert_same(ours, gradients(head, embedding, plain(head)))
        losses.append(ours[0].item())
    assert (losses[0] < losses[1] < losses[2]) == isinstance(head, ArcMarginProduct)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("on_target", [True, False])
def test_gradients_at_cosine_one_and_minus_one_equal_the_plain_heads(sign, on_target):
    # All sub-centers of a class are the same vector: the first of equals has the gradient.
    head = ArcMarginProductIntertopkSubcenter(4, 4, margin=0.5, K=2, k_top=2)
    head.weight.data = torch.eye(4).repeat_interleave(2, dim=0)
    # Tiny other parts keep the order of the others certain.
    embedding = sign * torch.eye(4) + torch.tensor([0.0, 1e-5, 2e-5, 3e-5])
    label = torch.arange(4) if on_target else torch.tensor([1, 2, 3, 0])
    expected = gradients(head, embedding, plain(head, label))
    assert all(grad.isfinite().all() for grad in expected[2])
    assert expected[2][1].view(4, 2, 4)[:, 1].eq(0).all()
    assert_same(gradients(head, embedding, chunked(head, label, chunk_rows=2)), expected)


@pytest.mark.parametrize("rows_per_class, n_top_k", [(1, 0), (1, 2), (3, 2), (2, 6)])
@pytest.mark.parametrize("normalise", [True, False])
def test_condensed_logits_pass_gradcheck(rows_per_class, n_top_k, normalise):
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7 * rows_per_class, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    plan = ChunkPlan(rows_per_class, normalise, n_top_k, chunk_classes=3, factors=torch.float64)
    label = torch.tensor([2, 3, 6])
    has_bias = rows_per_class == 1 and not normalise

    def smooth(embedding, weight, bias):
        target, top_k_other, other_logsumexp, _ = LogitSummary.apply(
            embedding, weight, bias if has_bias else None, label, plan
        )
        return (target, top_k_other) if n_top_k == 6 else (target, top_k_other, other_logsumexp)  # rest of none is -inf

    assert torch.autograd.gradcheck(smooth, (embedding, weight, bias))


def condensed(factors=torch.float32, n_top_k=3, chunk_classes=7):
    """What ``LogitSummary`` or ``FusedLogits`` finds in a batch, and all its logits."""
    generator = torch.Generator().manual_seed(7)
    embedding, weight = torch.randn(BATCH, IN, generator=generator), torch.randn(CLASSES * 2, IN, generator=generator)
    logits = FusedLogits if native.AVAILABLE else LogitSummary
    found = logits.apply(embedding, weight, None, LABEL, ChunkPlan(2, True, n_top_k, chunk_classes, factors))
    return found, (embedding @ F.normalize(weight).T).unflatten(1, (CLASSES, 2)).amax(2)


@pytest.mark.parametrize("n_top_k", [0, 1, 5, CLASSES - 2, CLASSES - 1])
@pytest.mark.parametrize("chunk_classes", [1, 4, CLASSES])
def test_condensed_logits_equal_those_of_a_full_sort(n_top_k, chunk_classes):
    found, logits = condensed(n_top_k=n_top_k, chunk_classes=chunk_classes)
    others = logits.scatter(1, LABEL[:, None], -torch.inf).sort(1, descending=True).values
    other_logsumexp = others[:, n_top_k:]
    expected = (
        logits.gather(1, LABEL[:, None])[:, 0],
        others[:, :n_top_k],
        other_logsumexp.logsumexp(1),
        other_logsumexp[:, 0],
    )
    torch.testing.assert_close(found, expected)


def test_what_gets_a_margin_or_penalty_is_not_rounded_to_bfloat16():
    (target, top_k_other, other_logsumexp, _), logits = condensed(torch.bfloat16)
    torch.testing.assert_close(target, logits.gather(1, LABEL[:, None])[:, 0])
    exact = (top_k_other[:, :, None] - logits[:, None]).abs().amin(2)
    assert exact.max() < 1e-5
    assert (other_logsumexp - condensed()[0][2]).abs().max() > 1e-4


def test_large_logits_neither_overflow_nor_vanish():
    head = Softmax(IN, CLASSES)
    embedding = 1e4 * torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(4))
    expected = gradients(head, embedding, plain(head))
    assert expected[0] > 1000
    assert_same(gradients(head, embedding, chunked(head, chunk_rows=5)), expected)


def test_weights_and_embeddings_of_zero_give_finite_gradients(head):
    head.weight.data[:5] = 0
    embedding = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(5))
    embedding[3] = 0
    loss, _, grads = gradients(head, embedding, chunked(head, chunk_rows=4))
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


def test_a_nan_in_the_embedding_makes_the_loss_nan(head, embedding):
    # The training loop skips steps by that.
    embedding[2, 3] = torch.nan
    assert chunked_loss(head, embedding, LABEL, chunk_rows=12)[0].isnan()


def test_half_precision_embeddings_under_autocast_are_computed_in_float32(head, embedding):
    half = embedding.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = chunked_loss(head, half, LABEL)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, chunked_loss(head, half.float(), LABEL)[0])


def test_bfloat16_products_change_loss_and_gradients_by_a_percent_or_so():
    torch.manual_seed(6)
    head = ArcMarginProductIntertopkSubcenter(192, 2000, K=3)
    label = torch.randint(2000, (64,))
    embedding = head.weight.detach()[3 * label] / head.weight.detach().std() + 2 * torch.randn(64, 192)
    expected = gradients(head, embedding, plain(head, label))
    ours = gradients(head, embedding, chunked(head, label, products="bfloat16"))
    assert abs(ours[0] - expected[0]) < 3e-3 * expected[0]
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(ours[2], expected[2])]
    assert max(errors) < 0.03
    # Were nothing rounded, the option would do nothing.
    assert min(errors) > 1e-4


class LargestTensor(TorchDispatchMode):
    """The most values that any result of any operation had, those of ``allowed`` shapes apart."""

    def __init__(self, allowed):
        super().__init__()
        self.allowed, self.numel = allowed, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.shape not in self.allowed:
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_no_tensor_is_larger_than_a_chunk_whatever_the_number_of_classes(products):
    chunk_rows, numel = 96, {}
    for classes in (400, 4000):
        head = ArcMarginProductIntertopkSubcenter(IN, classes, K=3)
        embedding = torch.randn(BATCH, IN, requires_grad=True)
        # The weight, its gradient, and views of them are there with any head.
        with LargestTensor(allowed=[head.weight.shape, (classes * 3,)]) as largest:
            loss, _ = chunked_loss(head, embedding, LABEL, products, chunk_rows)
            loss.backward()
        assert head.weight.grad.abs().sum() > 0
        numel[classes] = largest.numel
    assert numel[400] == numel[4000]
    # A chunk's logits, or the 5 hardest classes' rows of each item, which are looked at again.
    assert numel[4000] <= max(chunk_rows * BATCH, BATCH * 5 * 3 * IN)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_outside_the_classes_is_refused_as_by_the_plain_head(head, embedding, label):
    labels = LABEL.clone()
    labels[4] = label
    with pytest.raises(SpkverError, match=rf"label {label} is outside \[0, {CLASSES}\)"):
        chunked_loss(head, embedding, labels)


def test_labels_of_another_shape_or_type_are_refused(head, embedding):
    for labels in (LABEL[:-1], LABEL.int(), LABEL[:, None]):
        with pytest.raises(ValueError, match=r"label must be \(16,\) int64"):
            chunked_loss(head, embedding, labels)


def test_unknown_products_and_empty_chunks_are_refused(head, embedding):
    with pytest.raises(ValueError, match="products must be 'float32' or 'bfloat16', not 'int8'"):
        chunked_loss(head, embedding, LABEL, products="int8")
    with pytest.raises(ValueError, match="chunk_rows must be 1 or more, not 0"):
        chunked_loss(head, embedding, LABEL, chunk_rows=0)


def test_ties_between_all_classes_are_not_correct():
    head = NormFace(IN, CLASSES)
    head.weight.data[:] = 1.0
    assert chunked_loss(head, torch.ones(BATCH, IN), LABEL)[1] == 0


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_autocast_around_the_loss_changes_nothing(head, embedding, products):
    loss_of = chunked(head, products=products, chunk_rows=12)

    def under_autocast(embedding):
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(embedding)

    expected, ours = gradients(head, embedding, loss_of), gradients(head, embedding, under_autocast)
    assert torch.equal(ours[0], expected[0])
    assert ours[1] == expected[1]
    assert all(torch.equal(mine, other) for mine, other in zip(ours[2], expected[2], strict=True))


def test_a_bias_of_other_classes_is_refused(embedding):
    head = Softmax(IN, CLASSES)
    for bias in (torch.zeros(CLASSES - 1), torch.zeros(1, CLASSES), torch.zeros(2 * CLASSES)):
        head.bias.data = bias
        said = rf"^head.bias must be \({CLASSES},\), not {re.escape(str(tuple(bias.shape)))}$"
        with pytest.raises(ValueError, match=said):
            chunked_loss(head, embedding, LABEL)


@pytest.mark.parametrize("rows_per_class", [1, 2])
def test_a_weight_of_other_classes_is_refused(embedding, rows_per_class):
    head = ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=rows_per_class)
    whole, rows = head.weight.data, CLASSES * rows_per_class
    for weight in (whole[:-1], whole[:, None], whole.repeat(2, 1)):
        head.weight.data = weight
        said = rf"^head.weight must have {rows} rows, not the shape {re.escape(str(tuple(weight.shape)))}$"
        with pytest.raises(ValueError, match=said):
            chunked_loss(head, embedding, LABEL)


class Marked(torch.Tensor):
    """A tensor of a library that has its own way to compute, which kernels would pass by."""


@pytest.mark.parametrize("what", ["none", "embedding", "weight", "bias", "label"])
def test_what_no_kernel_may_read_goes_torchs_way(monkeypatch, what):
    taken = []

    class Noting:
        @staticmethod
        def apply(*arguments):
            taken.append(1)
            return FusedLogits.apply(*arguments)

    monkeypatch.setattr(chunked_module, "FusedLogits", Noting)
    head = Softmax(IN, CLASSES)
    embedding, label = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(8)), LABEL
    expected = F.cross_entropy(head(embedding, label), label)
    if what == "embedding":
        embedding = embedding.as_subclass(Marked)
    if what == "label":
        label = label.as_subclass(Marked)
    if what in ("weight", "bias"):
        setattr(head, what, torch.nn.Parameter(getattr(head, what).detach().as_subclass(Marked)))
    loss, _ = chunked_loss(head, embedding, label)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(taken) == (native.AVAILABLE and what == "none")


def test_chunks_are_of_a_size_that_suits_the_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [rows_a_chunk(cpu, batch) for batch in (1, 64, 512)] == [4096] * 3
    assert [rows_a_chunk(gpu, batch) for batch in (64, 512, 1 << 20)] == [524_288, 65_536, 4096]
