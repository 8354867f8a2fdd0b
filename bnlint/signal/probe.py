"""One forward and one backward pass on real data, on the target device: what every op and parameter does at init.

The run is recorded like the static graph, so that each value is known by its node there. Statistics are reduced on the
device as soon as a value exists, kept there as a few numbers, and copied to the host once, after the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from bnlint.graph.axes import Role, holds_batch, roles
from bnlint.graph.model import LAYERS, SHAPE_ONLY, Graph
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.ops import Kind, op_name
from bnlint.graph.record import Recording, record
from bnlint.signal.loss import LossError, gradients_of_outputs
from bnlint.signal.statistics import Layout, NodeStats, extremes, measurable, moments, norm, summary

if TYPE_CHECKING:
    from bnlint.inputs import Inputs

# Views and selections make no new values; neither does the `empty` family, whose values mean nothing.
_NO_VALUES = SHAPE_ONLY | {Kind.SPLIT, Kind.CONSTANT, Kind.OUTPUT}
_CASTS = frozenset(("to", "type", "half", "bfloat16", "float", "double", "nan_to_num", "type_as"))
_UNWRITTEN = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new", "resize", "resize_as", "set"))
_MEASURED = LAYERS | {
    *(Kind.NORM, Kind.ACTIVATION, Kind.ADD, Kind.MUL, Kind.POOL, Kind.RESIZE, Kind.REDUCE, Kind.CAT, Kind.EMBEDDING),
    *(Kind.MATMUL, Kind.PAD, Kind.SHUFFLE, Kind.INPUT),
}
_GRADIENTS = LAYERS | {Kind.NORM, Kind.ADD}
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


@dataclass(frozen=True)
class ParameterStats:
    """Norms of one parameter and of its gradient; `gradient` is None where none arrived."""

    norm: float
    gradient: float | None
    trainable: bool


@dataclass
class ProbeFacts:
    """What the probe measured. `stats` is by node name of the static graph, `parameters` by every name they have."""

    device: str
    loss: str = ""  # what the backward pass started from
    backward: bool = False  # the backward pass ran to its end
    stats: dict[str, NodeStats] = field(default_factory=dict)
    parameters: dict[str, ParameterStats] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str | None = None  # why the forward pass did not run or stopped


class ProbeError(Exception):
    """Why the probe cannot run; the message is one sentence for people."""


def probe(
    model: nn.Module,
    inputs: Inputs,
    graph: Graph,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    loss: str | None = None,
    seed: int = 0,
    backward: bool = True,
) -> ProbeFacts:
    """Runs the model once, forward and backward, in the mode it is in.

    Moves the model to the device, writes gradients and buffers and uses the random state: the caller restores
    (`untouched(model, values=True)`).
    """
    facts = ProbeFacts(device)
    watch = _Watch(graph, backward)
    try:
        facts.device = str(find_device(device))
        with _quiet_dropout(model), _own_gradients(model):
            _run(model, inputs, watch, facts, dtype=dtype, loss=loss, seed=seed, backward=backward)
            facts.parameters = _parameter_stats(model)
        facts.stats = watch.fetch()
        facts.notes += watch.notes()
    except ProbeError as error:
        facts.failed = str(error)
    return facts


def find_device(text: str) -> torch.device:
    """The device a name stands for; `auto` is the accelerator where there is one. Raises ProbeError."""
    available = _available()
    if text == "auto":
        return torch.device(available[-1])
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise ProbeError(f"device `{text}` is not available here; available: {', '.join(available)}")
    return device


def _available() -> list[str]:
    """The device types of this machine, the accelerator last."""
    if hasattr(torch, "accelerator"):  # torch 2.6
        accelerator = torch.accelerator.current_accelerator()
        name = accelerator.type if accelerator is not None and torch.accelerator.is_available() else None
    else:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    return ["cpu", name] if name else ["cpu"]


def _run(
    model: nn.Module,
    inputs: Inputs,
    watch: _Watch,
    facts: ProbeFacts,
    *,
    dtype: str | None,
    loss: str | None,
    seed: int,
    backward: bool,
) -> None:
    device = torch.device(facts.device)
    wanted = _dtype(dtype)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        to = wanted if tensor.dtype.is_floating_point else None
        return tensor.detach().to(device=device, dtype=to, copy=True)

    with _explained("moving the model", facts.device):
        if device.type != "cpu" or wanted is not None:
            model.to(device=device, dtype=wanted)
        args, kwargs = map_tensors((inputs.args, inputs.kwargs), move)
    torch.manual_seed(seed)
    with _explained("the forward pass", facts.device):
        recording = record(model, args, kwargs, fake=False, repair=False, observer=watch)
        if recording.error is not None:
            raise recording.error
    if backward:
        _backward(recording, watch, facts, loss, seed)


def _backward(recording: Recording, watch: _Watch, facts: ProbeFacts, loss: str | None, seed: int) -> None:
    """Runs the backward pass; when it fails the forward facts still stand."""
    try:
        with _explained("the backward pass", facts.device):
            facts.loss, outputs, gradients = gradients_of_outputs(recording.output, watch.output_axes(), loss, seed)
            torch.autograd.backward(outputs, gradients)
        facts.backward = True
    except (ProbeError, LossError) as error:
        facts.notes.append(f"no gradients: {error}")


class _Watch:
    """The observer of the run: reduces what matters and remembers where it belongs."""

    def __init__(self, graph: Graph, backward: bool) -> None:
        self.graph, self.backward = graph, backward
        self.matcher = _Matcher(graph)
        self.numbers: dict[str, list[torch.Tensor]] = {}
        self.layouts: dict[str, Layout] = {}
        self.gradients: dict[str, torch.Tensor] = {}

    def __call__(self, ran: fx.Node, output: Any) -> None:
        node = self.matcher.match(ran)
        value = next((t for _, t in tensors(output) if measurable(t)), None)
        if node is None or value is None or not _has_values(self.graph, node):
            return
        with torch.no_grad():
            numbers = extremes(value)
            if self.graph.kind(node) in _MEASURED:
                found, self.layouts[node.name] = moments(value, *_batch_and_channel(self.graph, node, value))
                numbers += found
        self.numbers[node.name] = numbers
        if self.backward and value.requires_grad and self.graph.kind(node) in _GRADIENTS:
            value.register_hook(self._keeper(node.name))  # type: ignore[no-untyped-call]

    def _keeper(self, name: str) -> Callable[[torch.Tensor], None]:
        def keep(gradient: torch.Tensor) -> None:
            with torch.no_grad():
                self.gradients[name] = norm(gradient)

        return keep

    def fetch(self) -> dict[str, NodeStats]:
        """Copies everything to the host."""
        rows = _to_host(self.numbers)
        norms = _to_host({name: [value] for name, value in self.gradients.items()})
        found: dict[str, NodeStats] = {}
        for name, numbers in rows.items():
            found[name] = summary(numbers, self.layouts.get(name))
            found[name].gradient = norms[name][0] if name in norms else None
        return found

    def output_axes(self) -> dict[tuple[int, ...], int]:
        """Which axis holds the classes or features, by the shape of an output."""
        nodes = self.graph.outputs
        found = {
            self.graph.shape(n): _batch_and_channel(self.graph, n, n.meta["val"])[1]
            for n in nodes
            if self.graph.shape(n)
        }
        return {shape: axis for shape, axis in found.items() if axis is not None}

    def notes(self) -> list[str]:
        """What the reader should know about this run."""
        lost = self.matcher.unmatched
        if not lost:
            return []
        return [
            f"the probe's run took another way through the model than the recorded one: {lost} ops were not measured"
        ]


class _Matcher:
    """Finds the static graph's node for each op of a real run: by name, else by module path, op and count."""

    def __init__(self, graph: Graph) -> None:
        self.by_name = {node.name: node for node in graph.nodes}
        self.by_key: dict[Any, list[fx.Node]] = {}
        for node in graph.nodes:
            self.by_key.setdefault(_key(node), []).append(node)
        self.taken: set[fx.Node] = set()
        self.unmatched = 0

    def match(self, ran: fx.Node) -> fx.Node | None:
        """The static node, None when the run has left the recorded path here."""
        node = self.by_name.get(ran.name)
        if node is None or _key(node) != _key(ran) or node in self.taken:
            node = next((n for n in self.by_key.get(_key(ran), ()) if n not in self.taken), None)
        if node is None:
            self.unmatched += 1
            return None
        self.taken.add(node)
        return node


def _key(node: fx.Node) -> tuple[Any, ...]:
    return node.op, node.target, node.meta.get("path")


def _has_values(graph: Graph, node: fx.Node) -> bool:
    name, kind = op_name(node), graph.kind(node)
    if kind is Kind.SAME:
        return name in _CASTS
    if kind is Kind.INDEX:
        return name == "setitem"
    return kind not in _NO_VALUES and name not in _UNWRITTEN


def _batch_and_channel(graph: Graph, node: fx.Node, value: torch.Tensor) -> tuple[int | None, int | None]:
    """Which axes count samples and channels; the layer itself says where its channels are, else their origin does."""
    axes = graph.axes(node) if len(graph.axes(node)) == value.ndim else ()
    batch = next((d for d, axis in enumerate(axes) if holds_batch(axis)), 0 if value.ndim else None)
    module, kind = graph.module(node), graph.kind(node)
    channel: int | None = None
    if isinstance(module, _CHANNELS_FIRST) or kind in (Kind.CONV, Kind.CONV_TRANSPOSE):
        channel = 1 if value.ndim > 1 else None
    elif kind in LAYERS or kind is Kind.EMBEDDING or isinstance(module, nn.LayerNorm):
        channel = value.ndim - 1
    else:
        made = [d for d, axis in enumerate(axes) if Role.CHANNEL in roles(axis)]
        channel = made[-1] if len(made) == 1 else None
    return batch, channel if channel != batch else None


def _parameter_stats(model: nn.Module) -> dict[str, ParameterStats]:
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if measurable(parameter):
            found.setdefault(id(parameter), (parameter, []))[1].append(name)
    weights = _to_host({str(key): [norm(p)] for key, (p, _) in found.items()})
    gradients = _to_host(
        {str(key): [norm(p.grad)] for key, (p, _) in found.items() if p.grad is not None and measurable(p.grad)}
    )
    return {
        name: ParameterStats(weights[str(key)][0], gradients.get(str(key), [None])[0], parameter.requires_grad)
        for key, (parameter, names) in found.items()
        for name in names
    }


def _to_host(rows: dict[str, list[torch.Tensor]]) -> dict[str, list[float]]:
    """Numbers that lie on a device, each row a list of scalars, in one copy per device."""
    flat = [number for row in rows.values() for number in row]
    if not flat:
        return {}
    device = flat[-1].device
    exact = torch.float64 if device.type == "cpu" else torch.float32
    values = iter(torch.stack([number.to(device=device, dtype=exact) for number in flat]).tolist())
    return {name: [next(values) for _ in row] for name, row in rows.items()}


@contextmanager
def _quiet_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout layers pass their input through: the spread is to be the signal's, not the noise's."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    """Starts with no gradient and puts back those that were there."""
    before = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            fits = gradient is not None and (gradient.device, gradient.dtype) == (parameter.device, parameter.dtype)
            parameter.grad = gradient if fits else None  # the caller puts back a model that was moved


@contextmanager
def _explained(doing: str, device: str) -> Iterator[None]:
    """Turns what a device, an allocator or an op raises into one sentence."""
    try:
        yield
    except (ProbeError, LossError):
        raise
    except (Exception, SystemExit) as error:
        text = str(error).strip().splitlines()
        first = text[0] if text else "no message"
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise ProbeError(f"{doing} runs out of memory on `{device}`; try a smaller --batch-size") from None
        raise ProbeError(f"{doing} fails on `{device}`: {type(error).__name__}: {first}") from None


def _dtype(text: str | None) -> torch.dtype | None:
    found = getattr(torch, text, None) if text else None
    if text and not isinstance(found, torch.dtype):
        raise ProbeError(f"`{text}` is no dtype; use float32, float16, bfloat16 or float64")
    return found
