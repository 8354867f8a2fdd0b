"""The observer of a run: reduces every value that matters to a few numbers and knows which node they belong to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import fx, nn

from bnlint.graph.activations import activation_name
from bnlint.graph.axes import Role, holds_batch, roles
from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.ops import LAYERS, SHAPE_ONLY, WEIGHT_LAYERS, Kind, op_name
from bnlint.signal.statistics import (
    Layout,
    NodeStats,
    extremes,
    flatness,
    highest,
    is_half,
    measurable,
    moments,
    norm,
    saturation,
    summary,
    zero_share,
)
from bnlint.signal.trunk import RESAMPLING, trunk

_Key = TypeVar("_Key", bound=Hashable)

# Views and selections make no new values; neither does the `empty` family, whose values mean nothing.
_NO_VALUES = SHAPE_ONLY | {Kind.SPLIT, Kind.CONSTANT, Kind.OUTPUT}
_CASTS = frozenset(("to", "type", "half", "bfloat16", "float", "double", "nan_to_num", "type_as"))
_UNWRITTEN = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new", "resize", "resize_as", "set"))
_MEASURED = LAYERS | RESAMPLING | {Kind.NORM, Kind.ADD, Kind.MUL, Kind.CAT, Kind.EMBEDDING, Kind.INPUT}
_GRADIENTS = LAYERS | {Kind.NORM, Kind.ADD}
_RECTIFIERS = frozenset(("relu", "relu6"))
_SQUASHING = frozenset(("sigmoid", "tanh"))
_RANKED = WEIGHT_LAYERS | {Kind.ADD, Kind.MATMUL}
_MAX_RANKS = 12  # places of the trunk whose rank is measured
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


class Watch:
    """Called with every node of a recorded run and its value."""

    def __init__(self, graph: Graph, backward: bool) -> None:
        self.graph, self.backward = graph, backward
        self.matcher = Matcher(graph)
        self.rectified, self.squashed = _read_by(graph, _RECTIFIERS), _read_by(graph, _SQUASHING)
        self.ranked = _ranked(graph)
        self.numbers: dict[str, dict[str, torch.Tensor]] = {}
        self.layouts: dict[str, Layout] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.gradients: dict[str, torch.Tensor] = {}
        self.complex = 0  # ops that give complex numbers, which are not measured

    def __call__(self, ran: fx.Node, output: Any) -> None:
        """Measures one value and, where wanted, asks for its gradient."""
        node = self.matcher.match(ran)
        value = next((t for _, t in tensors(output) if measurable(t)), None)
        self.complex += value is None and ran.op != "get_attr" and any(t.is_complex() for _, t in tensors(output))
        if node is None or value is None or not _has_values(self.graph, node):
            return
        with torch.no_grad(), torch._C.DisableTorchFunction():  # the recorder need not see what is done here
            self.numbers[node.name], self.dtypes[node.name] = extremes(value), value.dtype
            if _is_measured(self.graph, node) or node in self.squashed:
                self._measure(node, value)
        if self.backward and value.requires_grad and self.graph.kind(node) in _GRADIENTS:
            value.register_hook(self._keeper(node.name))  # type: ignore[no-untyped-call]

    def _measure(self, node: fx.Node, value: torch.Tensor) -> None:
        """The moments of a value, and what the ops that read it make worth knowing."""
        numbers = self.numbers[node.name]
        batch, channel = batch_and_channel(self.graph, node, value)
        found, self.layouts[node.name] = moments(value, batch, channel)
        numbers.update(found)
        if is_half(value.dtype) and self.graph.kind(node) in WEIGHT_LAYERS:
            numbers["zeros"] = zero_share(value)
        if node in self.squashed:
            numbers["saturated"] = saturation(value)
        if channel is None:
            return
        if node in self.rectified and not _is_batch_normed(self.graph, node):
            numbers["highest"] = highest(value, channel)
        if node in self.ranked:
            numbers.update(flatness(value, channel))

    def _keeper(self, name: str) -> Callable[[torch.Tensor | None], None]:
        def keep(gradient: torch.Tensor | None) -> None:
            if gradient is None:  # an output of an op whose other outputs alone were used
                return
            with torch.no_grad():
                self.gradients[name] = norm(gradient)

        return keep

    def fetch(self) -> dict[str, NodeStats]:
        """Copies everything to the host."""
        keyed = {(name, what): value for name, numbers in self.numbers.items() for what, value in numbers.items()}
        keyed |= {(name, "gradient"): value for name, value in self.gradients.items()}
        rows: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.numbers}
        for (name, what), value in on_host(keyed).items():
            rows[name][what] = value
        return {name: summary(numbers, self.layouts.get(name), self.dtypes[name]) for name, numbers in rows.items()}

    def output_axes(self) -> dict[tuple[int, ...], int]:
        """Which axis holds the classes or features, by the shape of an output."""
        nodes = self.graph.outputs
        found = {
            self.graph.shape(n): batch_and_channel(self.graph, n, n.meta["val"])[1]
            for n in nodes
            if self.graph.shape(n)
        }
        return {shape: axis for shape, axis in found.items() if axis is not None}

    def notes(self) -> list[str]:
        """What the reader should know about this run."""
        found, lost = [], self.matcher.unmatched
        if lost:
            found.append(
                "the probe's run took another way through the model than the recorded one: "
                f"{lost} ops were not measured"
            )
        if self.complex:
            ops = f"{self.complex} ops give" if self.complex > 1 else "1 op gives"
            found.append(f"{ops} complex numbers, which the probe does not measure")
        return found


class Matcher:
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


def _is_measured(graph: Graph, node: fx.Node) -> bool:
    """Layers and what joins them; an activation only where its spread is compared with that after a pool."""
    if graph.kind(node) is Kind.ACTIVATION:
        return any(graph.kind(n) in RESAMPLING for n in graph.destinations(node))
    return graph.kind(node) in _MEASURED


def batch_and_channel(graph: Graph, node: fx.Node, value: torch.Tensor) -> tuple[int | None, int | None]:
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


def _read_by(graph: Graph, names: frozenset[str]) -> frozenset[fx.Node]:
    """The nodes that activations of these names are applied to."""
    found: set[fx.Node] = set()
    for node in graph.of_kind(Kind.ACTIVATION):
        source = graph.data(node)
        if source is not None and activation_name(graph, node) in names:
            found.update(graph.origins(source))
    return frozenset(found)


def _ranked(graph: Graph) -> frozenset[fx.Node]:
    """Layers, sums and products spread over the trunk, the first and the last among them."""
    layers = [node for node in trunk(graph) if graph.kind(node) in _RANKED]
    step = max(1.0, (len(layers) - 1) / (_MAX_RANKS - 1))
    return frozenset(layers[round(i * step)] for i in range(min(len(layers), _MAX_RANKS)))


def _is_batch_normed(graph: Graph, node: fx.Node) -> bool:
    """True where each channel is normalised over the batch: how it lies to zero is a matter of two parameters."""
    module = graph.module(node)
    return isinstance(module, nn.modules.batchnorm._NormBase) and (module.training or module.running_mean is None)


def on_host(values: Mapping[_Key, torch.Tensor]) -> dict[_Key, torch.Tensor]:
    """Numbers on the CPU, in float64; from another device in one copy."""
    whole = {key: _whole(value) for key, value in values.items()}
    device = next((value.device for value in whole.values() if value.device.type != "cpu"), None)
    if device is None:
        return {key: value.double() for key, value in whole.items()}
    flat = torch.cat([value.reshape(-1).to(device=device, dtype=torch.float32) for value in whole.values()])
    parts = torch.split(flat.cpu().double(), [value.numel() for value in whole.values()])
    return {key: part.reshape(value.shape) for (key, value), part in zip(whole.items(), parts, strict=True)}


def to_host(rows: dict[str, list[torch.Tensor]]) -> dict[str, list[float]]:
    """Numbers that lie on a device, each row a list of scalars, in one copy."""
    found = on_host({(name, i): number for name, row in rows.items() for i, number in enumerate(row)})
    return {name: [float(found[name, i]) for i in range(len(row))] for name, row in rows.items()}


def _whole(value: torch.Tensor) -> torch.Tensor:
    """A number that processes hold parts of (a DTensor), as the sum of the parts."""
    join = getattr(value, "full_tensor", None)
    whole: torch.Tensor = join() if join is not None else value
    return whole
