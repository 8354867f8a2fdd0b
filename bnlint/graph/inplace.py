"""Ops that write into their input, and what that breaks: values that autograd has saved, and skips that read on."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnlint.graph.activations import activation_name
from bnlint.graph.aliases import reads_stale_name
from bnlint.graph.fake import recording_mode
from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.ops import LAYERS, SHAPE_ONLY, Kind, op_name
from bnlint.graph.recording import ModuleCall

_MODIFIED = "modified by an inplace operation"
_NOT_NEGATIVE = frozenset(("relu", "relu6", "sigmoid", "softmax", "softplus"))
_SKIPS = LAYERS | {Kind.ADD, Kind.CAT, Kind.MUL, Kind.NORM}
_NAMED = re.compile(r"which is output \d+ of (\w+?)(?:Backward\d*)?,")  # older torches say "ReluBackward0"


def is_inplace(graph: Graph, node: fx.Node) -> bool:
    """True for `relu_`, `x += 1`, `nn.ReLU(inplace=True)`, `F.relu(x, inplace=True)`."""
    source = graph.data(node)
    if source is None or node.meta.get("val") is not source.meta.get("val"):
        return False
    if node.op == "call_module":
        return bool(getattr(graph.module(node), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(name).endswith("_") or node.kwargs.get("inplace") is True or op_name(node) in ("setitem", "view_write")


@dataclass(frozen=True)
class Broken:
    """A backward pass that will raise: the op that saved a value, and the in-place op that changed it."""

    saved_by: str  # autograd's name of the op, without "Backward0"
    node: fx.Node
    message: str


def broken_backward(graph: Graph) -> Broken | None:
    """Looks at every value that autograd saved during the recorded run; nothing is run backward."""
    made = [t for _, t in tensors(graph.recording.output) if t.grad_fn is not None]
    with recording_mode(made):
        for function in _functions([t.grad_fn for t in made]):
            fault = _changed(function)
            culprit = _culprit(graph, function, fault) if fault is not None else None
            if fault is not None and culprit is not None:
                return Broken(_plain_name(function), culprit, fault)
    return None


@dataclass(frozen=True)
class Clobbered:
    """A skip that reads a value after an in-place op of the branch has changed it."""

    node: fx.Node  # the in-place op
    reader: fx.Node  # what reads the changed value
    branch: str  # the path of the module that changed its caller's value


def clobbered_skips(graph: Graph) -> Iterator[Clobbered]:
    """In-place ops on a value that belongs to the caller of the module they are in, and that the caller reads later."""
    for node, calls in _within(graph):
        source = graph.data(node)
        if source is None or not is_inplace(graph, node) or _changes_nothing(graph, node, source):
            continue
        found = _read_by_caller(node, source, calls) or _read_by_alias(graph, node)
        if found is not None:
            yield found


def _within(graph: Graph) -> Iterator[tuple[fx.Node, list[ModuleCall]]]:
    """Every node with the module calls it is in, the outermost first."""
    todo, around = deque(graph.recording.calls), list[ModuleCall]()
    for node in graph.nodes:
        index = node.meta["index"]
        while todo and todo[0].first <= index:
            around.append(todo.popleft())
        around = [call for call in around if index < call.last]
        yield node, around


def _read_by_caller(node: fx.Node, source: fx.Node, calls: list[ModuleCall]) -> Clobbered | None:
    """A module that got the value as an argument changes it, does not hand it back, and its caller reads it again."""
    for call in calls:
        if call.path and source in call.inputs and node not in call.outputs:
            reader = _later_reader(node, call)
            if reader is not None:
                return Clobbered(node, reader, call.path)
    return None


def _later_reader(node: fx.Node, call: ModuleCall) -> fx.Node | None:
    """What reads the changed value after the branch has returned: the skip's add, or the layer on the skip."""
    for user in node.users:
        if user.meta.get("kind") in _SKIPS and user.meta["index"] >= call.last:
            return user
    return None


def _read_by_alias(graph: Graph, node: fx.Node) -> Clobbered | None:
    """`y = relu_(x)` or `skip = x; x = relu_(x)`, and a later add of the same function that reads `x` or `skip`."""
    for user in node.users:
        joins = user.meta.get("kind") is Kind.ADD and len(user.all_input_nodes) > 1
        if joins and user.meta["path"] == _caller(node) and reads_stale_name(node, user):
            return Clobbered(node, user, node.meta["path"])
    return None


def _caller(node: fx.Node) -> str:
    """The path of the module whose forward calls the op."""
    return str(node.target).rpartition(".")[0] if node.op == "call_module" else str(node.meta["path"])


def _changes_nothing(graph: Graph, node: fx.Node, source: fx.Node) -> bool:
    """A ReLU of values that are not negative anyway."""
    through = SHAPE_ONLY | {Kind.POOL, Kind.PAD, Kind.RESIZE, Kind.DROPOUT, Kind.CAT}
    made = graph.origins(source, through)
    names = {activation_name(graph, n) for n in made}
    return activation_name(graph, node) in ("relu", "leaky_relu") and bool(names) and names <= _NOT_NEGATIVE


# -- what autograd saved -----------------------------------------------------------------------------------------------


def _functions(starts: list[Any]) -> Iterator[Any]:
    seen: set[Any] = set()
    todo = list(starts)
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        yield function
        todo += [after for after, _ in function.next_functions if after is not None]


def _changed(function: Any) -> str | None:
    """Autograd's message when a value that the op saved has been written to since."""
    for name in dir(function):
        saved = name.startswith("_saved_") or name == "saved_tensors"
        if saved and not name.startswith("_saved_running"):  # only fake kernels count the update of statistics
            try:
                getattr(function, name)
            except RuntimeError as error:
                if _MODIFIED in str(error):
                    return str(error)
            except Exception:
                continue
    return None


def _plain_name(function: Any) -> str:
    return str(function.name()).removesuffix("Backward0").removesuffix("Backward")


def _culprit(graph: Graph, function: Any, message: str) -> fx.Node | None:
    """The last in-place op of the graph on the value that the op saved."""
    written = [n for n in graph.nodes if is_inplace(graph, n)]
    reader = next((n for n in graph.nodes if _grad_fn(n) is function), None)
    values = [n.meta.get("val") for n in reader.all_input_nodes] if reader is not None else []
    later = [n for n in written if reader is not None and graph.position[n] > graph.position[reader]]
    named = _NAMED.search(message)
    name = named[1].lower() if named else ""
    found = [n for n in later if any(n.meta["val"] is value for value in values)]
    found = found or [n for n in written if name in _history(graph, n)]
    return _shown(found[-1]) if found else None


def _shown(node: fx.Node) -> fx.Node:
    """The op on the view that wrote into its base, rather than the recorder's own `view_write`."""
    return node.all_input_nodes[1] if op_name(node) == "view_write" else node


def _grad_fn(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return value.grad_fn if isinstance(value, torch.Tensor) else None


def _history(graph: Graph, node: fx.Node) -> set[str]:
    """The names of the ops that made and then changed the tensor that an in-place op writes into."""
    names: set[str] = set()
    source = graph.data(node)
    while source is not None:
        names.add((activation_name(graph, source) or op_name(source)).replace("_", "").lower())
        source = graph.data(source) if is_inplace(graph, source) else None
    return names
