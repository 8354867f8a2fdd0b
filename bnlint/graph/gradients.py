"""Where gradients flow: which ops pass them on, and which parameters they cannot reach."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.nest import tensors
from bnlint.graph.ops import Kind, op_name

_FLAT = frozenset(("round", "floor", "ceil", "trunc", "sign"))  # their slope is zero wherever it exists
_FORM_ONLY = frozenset(
    ("type_as", "expand_as", "view_as", "reshape_as", "to")
)  # do not read the second operand's values


@dataclass(frozen=True)
class Cut:
    """A trainable parameter that no gradient reaches, and the ops that stop it on every way to the output."""

    name: str
    ends: tuple[fx.Node, ...]  # () when gradients were switched off where the parameter was used

    @property
    def straight_through(self) -> bool:
        """True when a detached value is added to another, as straight-through estimators do."""
        return any(user.meta["kind"] is Kind.ADD for end in self.ends if _passes(end) for user in end.users)


def carries(node: fx.Node) -> bool:
    """True when autograd followed the node's value."""
    return any(t.requires_grad for _, t in tensors(node.meta.get("val")))


class Gradients:
    """Which values of a recorded run a gradient of the outputs arrives at."""

    def __init__(self, graph: Graph) -> None:
        self._returned: set[fx.Node] = set()  # values that the output is computed from, with or without gradient
        self._alive: set[fx.Node] = set()
        self._hidden: set[fx.Node] = set()  # run inside a custom autograd function, which has a backward of its own
        for node in reversed(graph.nodes):
            if not node.meta.get("grad", True) and (carries(node) or any(u in self._hidden for u in node.users)):
                self._hidden.add(node)
            if any(user.op == "output" or user in self._returned for user in node.users):
                self._returned.add(node)
            if self._carries(node) and self._has_way(node):
                self._alive.add(node)

    def _carries(self, node: fx.Node) -> bool:
        return carries(node) or node in self._hidden

    def _has_way(self, node: fx.Node) -> bool:
        """A way on, or none that is known: a value that nothing returned depends on may have been kept elsewhere."""
        for user in _readers(node):
            if user.op == "output" or user not in self._returned:
                return True
            if user in self._alive and _passes(user):
                return True
        return not _readers(node)

    def arrives(self, node: fx.Node) -> bool:
        """True when a gradient gets here, or may."""
        return node in self._alive

    def onward(self, node: fx.Node) -> list[fx.Node]:
        """The readers of a node that a gradient comes back through, or may."""
        return [u for u in _readers(node) if u.op == "output" or (self.arrives(u) and _passes(u))]

    def ends(self, node: fx.Node) -> set[fx.Node]:
        """The ops at which the gradients of everything computed from the node stop."""
        found: set[fx.Node] = set()
        seen: set[fx.Node] = set()
        todo = [node]
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            for user in _readers(here):
                if self._carries(user) and _passes(user):
                    todo.append(user)
                else:
                    found.add(user)
        return found


def cut_parameters(graph: Graph, model: nn.Module) -> tuple[list[Cut], int]:
    """The trainable parameters that are used and get no gradient, and how many are used in all."""
    gradients = Gradients(graph)
    uses = _uses(graph, model)
    cuts = []
    for name, nodes in uses.items():
        if any(gradients.arrives(node) for node in nodes):
            continue
        followed = [node for node in nodes if carries(node) and (node.op != "get_attr" or _followed(node))]
        ends = {end for node in followed for end in gradients.ends(node)}
        cuts.append(Cut(name, tuple(sorted(ends, key=graph.position.__getitem__))))
    return cuts, len(uses)


def trained_uses(graph: Graph, model: nn.Module) -> dict[str, list[fx.Node]]:
    """The nodes that read each parameter which a gradient arrives at."""
    gradients = Gradients(graph)
    return {name: nodes for name, nodes in _uses(graph, model).items() if any(map(gradients.arrives, nodes))}


def written_parameters(graph: Graph) -> set[str]:
    """The parameters that forward itself writes to."""
    return {str(node.target) for node in graph.nodes if node.op == "get_attr" and _is_written(node)}


def _uses(graph: Graph, model: nn.Module) -> dict[str, list[fx.Node]]:
    """The nodes that read each trainable parameter; parameters that forward itself writes to are left out."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            names[id(parameter)] = name
    direct = {n: p for n, p in model.named_parameters(remove_duplicate=False) if id(p) in names}
    found: dict[str, list[fx.Node]] = {}
    written: set[str] = set()
    for node in graph.nodes:
        module = graph.module(node)
        if module is not None:
            for parameter in module.parameters():
                if id(parameter) in names:
                    found.setdefault(names[id(parameter)], []).append(node)
        elif node.op == "get_attr" and str(node.target) in direct:
            name = names[id(direct[str(node.target)])]
            if _is_written(node):
                written.add(name)
            elif _readers(node):
                found.setdefault(name, []).append(node)
    return {name: nodes for name, nodes in found.items() if name not in written}


def _readers(node: fx.Node) -> list[fx.Node]:
    """Users that compute with the node's values, not only with its shape, dtype or device."""
    return [user for user in node.users if not _reads_form_only(node, user)]


def _reads_form_only(node: fx.Node, user: fx.Node) -> bool:
    if user.meta.get("kind") is Kind.FACTORY:
        return True
    return op_name(user) in _FORM_ONLY and user.all_input_nodes[0] is not node


def _passes(user: fx.Node) -> bool:
    return op_name(user) not in _FLAT


def _followed(node: fx.Node) -> bool:
    return any(user.meta.get("grad", True) for user in _readers(node))


def _is_written(node: fx.Node) -> bool:
    """True for a parameter that forward updates in place, as moving averages are."""
    todo = list(node.users)
    while todo:
        user = todo.pop()
        target = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if user.all_input_nodes[:1] == [node] and str(target).endswith("_") and not str(target).startswith("__"):
            return True
        if op_name(user) in ("data", "detach") and _is_written(user):
            return True
    return False
