"""Every zoo model runs, records with eager's shapes, is left bit-for-bit as it was, and is clean."""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin

import bnlint
from bnlint.graph.fake import Unfollowable
from bnlint.graph.nest import plain, tensors
from bnlint.graph.record import record
from bnlint.graph.recorder import is_leaf
from bnlint.graph.recording import Recording
from bnlint.graph.untouched import untouched

from .zoo import ENTRIES, Entry

STYLES = """
Sequential, OrderedDict Sequential, ModuleList, ModuleDict, nested modules, shared module, functional, own parameters,
tensor methods, operators, in-place ops, index assignment, views, slices, multiple inputs, tuple output, dict output,
dataclass output, namedtuple output, OrderedDict output, None argument, bool argument, kwargs-only, *args, RNN, LSTM,
GRU, packed sequence, MultiheadAttention, TransformerEncoder, TransformerDecoder, embedding, positional table, loop in
forward, branch on shape, data-dependent branch, .item(), weight_norm, spectral_norm, parametrization, old hooks, lazy
modules, checkpoint, buffers, buffers updated in forward, weight tying, autograd.Function, einsum, chunk, split,
unbind, ConvTranspose, U-Net, ResNet, DenseNet, MobileNet, depthwise, squeeze-excite, MLP-Mixer, window attention,
ViT, GPT, GAN, VAE, WaveNet, Conv3d, PixelShuffle, siamese, GroupNorm, InstanceNorm, SELU, stochastic depth, forward
hook changes output, jit.script, torch.fft, complex, functools.partial forward, BatchNorm subclass, overridden
forward, fused activation
"""

every_model = pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))


def test_zoo_has_every_style() -> None:
    assert len(ENTRIES) >= 48
    present = frozenset().union(*(entry.tags for entry in ENTRIES.values()))
    assert [style for style in " ".join(STYLES.split()).split(", ") if style not in present] == []


@every_model
def test_eager_forward_and_backward_work(entry: Entry) -> None:
    model, args, kwargs = entry.make()
    outputs = [tensor for _, tensor in tensors(model(*args, **kwargs))]
    assert outputs
    assert all(tensor.isfinite().all() for tensor in outputs)
    torch.stack([t.abs().float().square().sum() for t in outputs if t.requires_grad]).sum().backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None] == []


@every_model
def test_recorded_shapes_are_those_of_eager(entry: Entry) -> None:
    calls, outputs = eager_shapes(entry)
    model, args, kwargs = entry.make()
    materialise(model, args, kwargs)
    recording = follow(model, args, kwargs)

    assert recording.error is None
    assert recording.errors == []
    assert [shape(tensor) for _, tensor in tensors(list(recording.graph.nodes)[-1].meta["val"])] == outputs
    recorded = defaultdict(list)
    for node in recording.graph.find_nodes(op="call_module"):
        if not isinstance(model.get_submodule(node.target), torch.jit.ScriptModule):
            recorded[node.target].append([shape(tensor) for _, tensor in tensors(node.meta["val"])])
    assert dict(recorded) == {path: calls[path] for path in recorded}
    assert {path for path in calls if is_outermost_leaf(model, path)} == set(recorded)
    recording.graph.lint()


@every_model
def test_every_parameter_is_reached(entry: Entry) -> None:
    """A layer's own parameters belong to its node; all others have a node of their own."""
    model, args, kwargs = entry.make()
    materialise(model, args, kwargs)
    names = {id(p): name for name, p in model.named_parameters()}
    reached = set()
    for node in follow(model, args, kwargs).graph.nodes:
        if node.op == "call_module":
            reached |= {id(p) for p in model.get_submodule(node.target).parameters()}
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            reached.add(id(getattr(model.get_submodule(owner), name, None)))
    assert sorted(name for key, name in names.items() if key not in reached) == []


@every_model
def test_recording_leaves_the_model_untouched(entry: Entry) -> None:
    assert changes(entry, follow, prepare=materialise)[0] == []


@every_model
def test_check_leaves_the_model_untouched(entry: Entry) -> None:
    assert checked(entry)[0] == []


@every_model
def test_model_is_clean(entry: Entry) -> None:
    report = checked(entry)[1]
    found = [f"{f.code} {f.module_path}: {f.message}" for f in report.findings if f.severity.rank > 0]
    assert found == []
    assert [target.status for target in report.targets] == ["ok"]


def test_a_changed_model_is_noticed() -> None:
    """The comparison behind the untouched tests sees each thing a check could leave behind."""
    entry = ENTRIES["plain_sequential"]
    deeds: list[Callable[[nn.Module], object]] = [
        lambda model: next(model.parameters()).data.add_(1e-7),
        lambda model: model[1].num_batches_tracked.add_(1),
        lambda model: model[1].eval(),
        lambda model: model[1].register_forward_hook(lambda *_: None),
        lambda model: next(model.parameters()).requires_grad_(False),
        lambda model: next(model.parameters()).grad.zero_(),
        lambda model: setattr(model[0], "note", 1),
        lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
        lambda model: torch.rand(1),
        lambda model: random.random(),
        lambda model: torch.set_default_dtype(torch.float64),
    ]
    for deed in deeds:
        try:
            assert changes(entry, lambda model, args, kwargs, deed=deed: deed(model))[0]
        finally:
            torch.set_default_dtype(torch.float32)
    assert changes(entry, lambda model, args, kwargs: None)[0] == []


@functools.cache
def checked(entry: Entry) -> tuple[list[str], bnlint.Report]:
    """What a check of the model changed, and its report."""
    return changes(entry, lambda model, args, kwargs: bnlint.check(model, inputs=args or kwargs))


def follow(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recording:
    """Records on fake tensors, or on real ones when fake tensors cannot follow."""
    try:
        with untouched(model):
            return record(model, args, kwargs)
    except Unfollowable:
        with untouched(model, values=True):
            return record(model, args, kwargs, fake=False)


def materialise(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """One forward pass for a model with lazy layers."""
    if any(isinstance(p, UninitializedTensorMixin) for p in model.parameters()):
        model(*args, **kwargs)


def is_outermost_leaf(model: nn.Module, path: str) -> bool:
    """True for a torch.nn layer that is not a part of another one."""
    parts = path.split(".")
    outer = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    return is_leaf(model.get_submodule(path)) and not any(is_leaf(module) for module in outer)


def eager_shapes(entry: Entry) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Shapes and dtypes of what each module of the model returns, call by call, and of the model's outputs."""
    model, args, kwargs = entry.make()
    materialise(model, args, kwargs)
    calls: dict[str, list[list[str]]] = defaultdict(list)

    def note(path: str) -> Callable[..., None]:
        return lambda module, args, output: calls[path].append([shape(tensor) for _, tensor in tensors(output)])

    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            module.register_forward_hook(note(path))
    output = model(*args, **kwargs)
    return calls, [shape(tensor) for _, tensor in tensors(plain(output))]


def shape(tensor: Tensor) -> str:
    """Shape and dtype, such as `float32[8, 10]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{[int(size) for size in tensor.shape]}"


def changes(
    entry: Entry, use: Callable[..., Any], prepare: Callable[..., None] = lambda model, args, kwargs: None
) -> tuple[list[str], Any]:
    """Uses the model, which has gradients; what differs afterwards in it and in its inputs, and what `use` returned."""
    model, args, kwargs = entry.make()
    prepare(model, args, kwargs)
    for parameter in model.parameters():
        if not isinstance(parameter, UninitializedTensorMixin):
            parameter.grad = torch.full_like(parameter, 0.5)
    torch.manual_seed(1)
    random.seed(1)
    before = {**dict(state(model)), "inputs": [frozen(tensor) for _, tensor in tensors((args, kwargs))]}
    result = use(model, args, kwargs)
    after = {**dict(state(model)), "inputs": [frozen(tensor) for _, tensor in tensors((args, kwargs))]}
    keys = {**before, **after}
    return [key for key in keys if key not in before or key not in after or not same(before[key], after[key])], result


def state(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All that a check must leave alone, by name."""
    yield "random state", (torch.get_rng_state().tolist(), random.getstate())
    yield "defaults", (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device())
    yield "module call", nn.Module.__call__
    for path, module in model.named_modules():
        yield f"{path} class", type(module)
        attributes = vars(module) if not isinstance(module, torch.jit.ScriptModule) else {"training": module.training}
        for key, value in attributes.items():
            yield f"{path}.{key}", frozen(value)
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            yield f"{path}.{key} tensor", frozen(tensor)
            yield f"{path}.{key} gradient", (tensor.requires_grad, frozen(tensor.grad))


def frozen(value: Any) -> Any:
    """A copy to compare with later: tensors by identity and content, containers by their items, the rest as it is."""
    if isinstance(value, UninitializedTensorMixin):
        return ("uninitialised", id(value))
    if isinstance(value, Tensor):
        return (id(value), value.data_ptr(), value.detach().clone())
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return set(value) if isinstance(value, set) else value


def same(old: Any, new: Any) -> bool:
    """True when two frozen values are equal to the bit."""
    if isinstance(old, Tensor):
        return isinstance(new, Tensor) and old.dtype == new.dtype and torch.equal(old, new)
    if isinstance(old, dict):
        return isinstance(new, dict) and list(old) == list(new) and all(same(old[key], new[key]) for key in old)
    if isinstance(old, (list, tuple)):
        return isinstance(new, (list, tuple)) and len(old) == len(new) and all(map(same, old, new))
    return bool(old is new or old == new)
