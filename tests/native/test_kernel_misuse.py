"""Kernels given what they cannot take: the result of torch's way, or an error of the same kind, and no other memory.

A kernel sees addresses only. Each test does the same with kernels and without them; what torch refuses is refused.
`tests/sanitize.sh` runs this file with kernels that stop at the first read beside a tensor.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spkver import native
from spkver.errors import SpkverError
from spkver.features import Fbank
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter, NormFace, Softmax, chunked_loss
from spkver.models.group_norm import GroupNormReLU
from spkver.models.position import ConvolutionalPosition

pytestmark = [
    pytest.mark.skipif(not native.AVAILABLE, reason="needs the kernels of spkver.native"),
    pytest.mark.filterwarnings("ignore:where received a uint8 condition tensor"),
]

BATCH, FRAMES, CHANNELS, BINS = 4, 6, 16, 5


def outcome(make, misuse, use):
    """What is computed, with its gradients, or the kind of error."""
    torch.manual_seed(0)
    given = make()
    try:
        misuse(given)
        found = use(given)
        inputs = [value for value in vars(given).values() if isinstance(value, torch.Tensor)]
        inputs += [*given.module.parameters()] if hasattr(given, "module") else []
        inputs = [value for value in inputs if value.requires_grad and value.is_floating_point()]
        if not found.requires_grad or not inputs:
            return [found.detach()]
        slopes = torch.linspace(-1, 1, found.numel()).view(found.shape).to(found)
        gradients = torch.autograd.grad(found, inputs, slopes, allow_unused=True)
        return [found.detach(), *gradients]
    except (SpkverError, ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        return type(error)


def same(monkeypatch, make, misuse, use):
    """Hold both ways together; returns what both made of it."""
    by_kernel = outcome(make, misuse, use)
    monkeypatch.setattr(native, "AVAILABLE", False)
    by_torch = outcome(make, misuse, use)
    if isinstance(by_torch, type) or isinstance(by_kernel, type):
        assert by_kernel is by_torch
        return by_torch
    assert [found is None for found in by_kernel] == [found is None for found in by_torch]
    for ours, theirs in zip(by_kernel, by_torch):
        if theirs is not None and theirs.device.type != "meta":
            assert_near(ours, theirs)
    return by_torch


def assert_near(ours, theirs):
    # bfloat16's own rounding, where that is the type of the result; else float32's over sums of some ten values.
    tolerance = 0.02 if theirs.dtype in (torch.bfloat16, torch.float16) else 1e-4
    size = theirs.abs().nan_to_num(0.0, 0.0).amax().item() if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(1.0, size), equal_nan=True)


def negated_view(x):
    """The same values in memory of the other sign."""
    return torch._neg_view(-x.detach())


def every_other(x):
    """The same values with gaps between them, a view of what has gradients."""
    return torch.stack([x.detach(), torch.full_like(x, 1000)], -1).requires_grad_()[..., 0]


def changed(name, change):
    """A misuse that puts another tensor in the place of one."""

    def misuse(given):
        setattr(given, name, change(getattr(given, name)))

    return misuse


def parameter(name, change):
    """A misuse that changes a parameter of the module, named as in its state dict."""

    def misuse(given):
        path, _, last = name.rpartition(".")
        module = given.module.get_submodule(path)
        value = change(getattr(module, last).detach())
        setattr(module, last, None if value is None else nn.Parameter(value))

    return misuse


X = {
    "as it should be": lambda x: x,
    "with a gradient": lambda x: x.detach().requires_grad_(),
    "a view with gaps": every_other,
    "one item for all": lambda x: x[:1].expand_as(x),
    "in another order": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "in negated memory": negated_view,
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "int64": lambda x: x.long(),
    "sparse": lambda x: x.to_sparse(),
    "no items": lambda x: x[:0],
    "no frames": lambda x: x.narrow(2 if x.dim() == 4 else 1, 0, 0),
    "no channels": lambda x: x.narrow(1 if x.dim() == 4 else 2, 0, 0),
    "fewer channels": lambda x: x.narrow(1 if x.dim() == 4 else 2, 0, CHANNELS // 2),
    "more channels": lambda x: torch.cat([x, x], 1 if x.dim() == 4 else 2),
    "a dimension less": lambda x: x[0],
    "a dimension more": lambda x: x[None],
    "on another device": lambda x: x.to("meta"),
}
MASKS = {
    "none": lambda mask: None,
    "for all items": lambda mask: mask[:1],
    "for all frames": lambda mask: mask[:, :1],
    "without items": lambda mask: mask[0],
    "a frame less": lambda mask: mask[:, :-1],
    "a frame more": lambda mask: torch.cat([mask, mask], 1),
    "an item less": lambda mask: mask[:-1],
    "a dimension more": lambda mask: mask[:, :, None],
    "in another order": lambda mask: mask.T.contiguous().T,
    "one item for all": lambda mask: mask[1].expand(mask.shape),
    "a view with gaps": lambda mask: torch.stack([mask, ~mask], 2)[..., 0],
    "float32": lambda mask: mask.float(),
    "uint8": lambda mask: mask.byte(),
    "int64": lambda mask: mask.long(),
    "all false in an item": lambda mask: mask & (torch.arange(BATCH) != 2)[:, None],
    "on another device": lambda mask: mask.to("meta"),
}
PARTS = {
    "short": lambda value: value[:-1],
    "one for all": lambda value: value[:1],
    "long": lambda value: torch.cat([value, value]),
    "with gaps": lambda value: torch.stack([value, value + 1], -1)[..., 0],
    "float64": lambda value: value.double(),
    "bfloat16": lambda value: value.bfloat16(),
    "in negated memory": negated_view,
    "a dimension more": lambda value: value[None],
}


def activations():
    x = 1.5 * torch.randn(BATCH, CHANNELS, FRAMES, BINS) + 0.7
    return x.contiguous(memory_format=torch.channels_last)


def mask():
    return torch.arange(FRAMES) < torch.tensor([6, 2, 5, 3])[:, None]


def frames_of(module):
    return lambda: SimpleNamespace(module=module(), x=torch.randn(BATCH, FRAMES, CHANNELS) + 1, mask=mask())


CALLERS = {
    "group norm": lambda: SimpleNamespace(module=GroupNormReLU(4, CHANNELS), x=activations(), mask=mask()),
    "position": frames_of(lambda: ConvolutionalPosition(CHANNELS, 3)),
}


def use_module(given):
    return given.module(given.x, given.mask)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", X)
def test_activations(monkeypatch, caller, masked, name):
    def misuse(given):
        given.x = X[name](given.x)
        given.mask = given.mask if masked else None

    with torch.set_grad_enabled("gradient" in name or "view" in name):
        found = same(monkeypatch, CALLERS[caller], misuse, use_module)
    if name == "as it should be":
        assert not isinstance(found, type)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_masks(monkeypatch, caller, trained, name):
    with torch.set_grad_enabled(trained):
        same(monkeypatch, CALLERS[caller], changed("mask", MASKS[name]), use_module)


def test_a_mask_for_all_items_or_frames_counts_as_one_for_each(way):
    given = CALLERS["group norm"]()
    some, first = mask()[1:2], torch.tensor([True, False, True, True])[:, None]
    with torch.no_grad():
        for short in (some, first):
            whole = short.expand(BATCH, FRAMES).contiguous()
            torch.testing.assert_close(given.module(given.x, short), given.module(given.x, whole))


@pytest.mark.parametrize("trained", [False, True])
def test_padded_frames_of_any_size_change_nothing(way, trained):
    given = CALLERS["group norm"]()
    with torch.set_grad_enabled(trained):
        # The square of which is infinite.
        filled = given.x.masked_fill(~given.mask[:, None, :, None], 1e30)
        torch.testing.assert_close(given.module(filled, given.mask), given.module(given.x, given.mask))


@pytest.mark.parametrize(
    "caller, name", [("group norm", "weight"), ("group norm", "bias"), ("position", "conv.weight")]
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("change", PARTS)
def test_parameters(monkeypatch, caller, name, masked, change):
    def misuse(given):
        parameter(name, PARTS[change])(given)
        given.mask = given.mask if masked else None

    same(monkeypatch, CALLERS[caller], misuse, use_module)


@pytest.mark.parametrize("change", [*PARTS, "none"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_bias_of_a_position(monkeypatch, change, autocast):
    misuse = parameter("conv.bias", PARTS.get(change, lambda value: None))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        # Under autocast torch rounds to bfloat16 what the kernel does not.
        found = same(monkeypatch, CALLERS["position"], misuse, lambda given: use_module(given).bfloat16())
    refused = {"short", "one for all", "long", "a dimension more", "float64"} | (set() if autocast else {"bfloat16"})
    assert isinstance(found, type) == (change in refused)


@pytest.mark.parametrize("kernel", [2, 4])
def test_a_position_of_an_even_kernel_is_torchs(monkeypatch, kernel):
    make = frames_of(lambda: ConvolutionalPosition(CHANNELS, kernel))
    assert same(monkeypatch, make, lambda given: None, use_module) is RuntimeError


def test_only_the_bias_of_a_masked_group_norm_is_trained(monkeypatch):
    def misuse(given):
        given.module.weight.requires_grad_(False)

    found = same(monkeypatch, CALLERS["group norm"], misuse, use_module)
    assert found[1].abs().max() > 0


def test_more_channels_than_a_kernel_has_room_for(monkeypatch):
    def make():
        x = torch.randn(2, 1040, 3, 2).contiguous(memory_format=torch.channels_last)
        return SimpleNamespace(module=GroupNormReLU(4, 1040), x=x.requires_grad_())

    same(monkeypatch, make, lambda given: None, lambda given: given.module(given.x))


@pytest.mark.parametrize("caller", CALLERS)
def test_a_second_gradient_is_refused(monkeypatch, caller):
    def use(given):
        given.x = given.x.requires_grad_()
        (slope,) = torch.autograd.grad(given.module(given.x, None).square().sum(), [given.x], create_graph=True)
        slope.square().sum().backward()
        return slope.detach()

    assert outcome(CALLERS[caller], lambda given: None, use) is RuntimeError
    monkeypatch.setattr(native, "AVAILABLE", False)
    # The convolution is torch's own, and has one.
    assert (outcome(CALLERS[caller], lambda given: None, use) is RuntimeError) == (caller != "position")


WAVEFORMS = {
    name: X[name]
    for name in X
    if "channels" not in name and "frames" not in name and name not in ("in another order", "on another device")
}
WAVEFORMS["in another order"] = lambda x: x.T.contiguous().T
WAVEFORMS["less than a frame"] = lambda x: x[:, :399]
PLACES = {
    "as it should be": lambda place: place,
    "int32": lambda place: place.int(),
    "int16": lambda place: place.short(),
    "uint8": lambda place: place.byte(),
    "bool": lambda place: place.bool(),
    "float32": lambda place: place.float(),
    "with gaps": lambda place: torch.stack([place, place + 7], 1)[:, 0],
    "one for all": lambda place: place[1].expand(BATCH),
    "in negated memory": negated_view,
    "one only": lambda place: place[:1],
    "one less": lambda place: place[:-1],
    "one more": lambda place: torch.cat([place, place[:1]]),
    "a number": lambda place: place[0],
    "a dimension more": lambda place: place[:, None],
    "too large": lambda place: place + 10**6,
    "negative": lambda place: place - 10**6,
    "none": lambda place: place[:0],
    "on another device": lambda place: place.to("meta"),
}


def waveforms():
    return SimpleNamespace(
        module=Fbank(formant_factors=[1.0, 0.9]),
        x=0.1 * torch.randn(BATCH, 2000),
        lengths=torch.tensor([2000, 400, 1100, 900]),
        formants=torch.tensor([0, 1, 1, 0]),
    )


def use_fbank(given):
    return given.module(given.x, given.lengths, given.formants)[0]


@pytest.mark.parametrize("name", WAVEFORMS)
@pytest.mark.parametrize("plain", [False, True])
def test_waveforms(monkeypatch, name, plain):
    def misuse(given):
        given.x = WAVEFORMS[name](given.x)
        if plain:
            given.lengths = given.formants = None

    same(monkeypatch, waveforms, misuse, use_fbank)


@pytest.mark.parametrize("which", ["lengths", "formants"])
@pytest.mark.parametrize("name", PLACES)
def test_lengths_and_formants(monkeypatch, which, name):
    same(monkeypatch, waveforms, changed(which, PLACES[name]), use_fbank)


@pytest.mark.parametrize("change", ["double", "half", "bfloat16"])
def test_a_filterbank_of_another_type(monkeypatch, change):
    same(monkeypatch, waveforms, lambda given: getattr(given.module, change)(), use_fbank)


IN, CLASSES, ITEMS = 8, 23, 16
HEADS = {
    "softmax": lambda: Softmax(IN, CLASSES),
    "normface": lambda: NormFace(IN, CLASSES),
    "arcface": lambda: ArcMarginProduct(IN, CLASSES),
    "intertopk": lambda: ArcMarginProductIntertopkSubcenter(IN, CLASSES, K=2),
}
EMBEDDINGS = {
    **{name: X[name] for name in X if "channels" not in name and "frames" not in name and name != "in another order"},
    "in another order": lambda x: x.T.contiguous().T,
    "fewer values": lambda x: x[:, :-1],
    "more values": lambda x: torch.cat([x, x], 1),
    "no values": lambda x: x[:, :0],
}
LABELS = {
    **PLACES,
    "one for all": lambda label: label[3].expand(ITEMS),
    "every other": lambda label: torch.arange(2 * ITEMS)[::2] % CLASSES,
    "every other backwards": lambda label: torch.stack([label, label.flip(0)], 1).flatten()[1::2],
}
ROWS = {**PARTS, "in another order": lambda value: value.T.contiguous().T, "fewer values": lambda value: value[:, :-1]}


def batch_of(head):
    def make():
        module = HEADS[head]()
        if head == "softmax":
            module.bias.data.normal_()
        return SimpleNamespace(module=module, x=torch.randn(ITEMS, IN), label=torch.randint(CLASSES, (ITEMS,)))

    return make


def use_head(products):
    return lambda given: chunked_loss(given.module, given.x, given.label, products, chunk_rows=10)[0]


def use_plainly(given):
    return F.cross_entropy(given.module(given.x, given.label), given.label)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("products", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LABELS)
def test_labels(monkeypatch, head, products, name):
    make, misuse = batch_of(head), changed("label", LABELS[name])
    plain = outcome(make, misuse, use_plainly)
    found = same(monkeypatch, make, misuse, use_head(products))
    if products == "bfloat16":
        return
    if isinstance(plain, type):
        assert found is plain
        return
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(monkeypatch, head, name):
    same(monkeypatch, batch_of(head), changed("x", EMBEDDINGS[name]), use_head("float32"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("products", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", ROWS)
def test_weights_of_a_head(monkeypatch, head, products, change):
    same(monkeypatch, batch_of(head), parameter("weight", ROWS[change]), use_head(products))


@pytest.mark.parametrize("change", PARTS)
def test_the_bias_of_a_head(monkeypatch, change):
    same(monkeypatch, batch_of("softmax"), parameter("bias", PARTS[change]), use_head("float32"))


@pytest.mark.parametrize(
    "caller, name",
    [
        ("group norm", "weight"),
        ("group norm", "bias"),
        ("position", "conv.weight"),
        ("position", "conv.bias"),
        ("head", "weight"),
        ("head", "bias"),
    ],
)
def test_a_parameter_on_another_device_reaches_no_kernel(monkeypatch, caller, name):
    # torch itself takes some of these for numbers; with a GPU's it raises.
    monkeypatch.setattr(native, "call", lambda *_, **__: pytest.fail("a kernel was called"))
    make, use = (batch_of("softmax"), use_head("float32")) if caller == "head" else (CALLERS[caller], use_module)
    outcome(make, parameter(name, lambda value: value.to("meta")), use)


@pytest.mark.parametrize(
    "value", [torch.zeros(2, 3, 5), torch.zeros(4, 6, 2)[..., 0], torch.zeros(4, 6).double(), None]
)
def test_what_a_caller_lets_through_stops_before_the_kernel(value):
    if value is not None:
        value = value.expand(4, -1, -1) if value.dim() == 3 and len(value) == 4 else value
    tensors = [torch.zeros(4, 6, 16), torch.zeros(4, 6, 16), torch.zeros(3, 16), torch.zeros(16)]
    tensors[2] = value
    with pytest.raises(ValueError, match=r"^depthwise_convolve: tensor 3 must be contiguous \(kernel, channels 16\)"):
        native.call("depthwise_convolve", *tensors, dtype=torch.float32)
