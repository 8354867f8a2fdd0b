"""Tensors of the graph that no input changes: parameters, buffers, and what is computed from them alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_arg

from bnlint.graph.model import Graph
from bnlint.graph.nest import select, tensors
from bnlint.graph.ops import Kind, op_name

_MOST = 1 << 24  # entries
_NAMES = (
    "rand randn randint randperm normal bernoulli rand_like randn_like randint_like empty empty_like new_empty "
    "uniform dropout dropout1d dropout2d dropout3d alpha_dropout gumbel_softmax multinomial exponential rrelu"
)
_RANDOM = frozenset(_NAMES.split())
_OF_ONES = {"zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}


class Constants:
    """Evaluates what needs no input, on demand and once."""

    def __init__(self, graph: Graph, module: nn.Module) -> None:
        self.graph = graph
        self._named: dict[str, torch.Tensor] = {
            **dict(module.named_buffers(remove_duplicate=False)),
            **dict(module.named_parameters(remove_duplicate=False)),
        }
        self._known: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            self._known[node] = self._evaluate(node)

    def get(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor a node always has; None when an input or chance decides."""
        found = self._known.get(node)
        return found if isinstance(found, torch.Tensor) else None

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            found = self._named.get(str(node.target))
            return found if found is not None and _is_real(found) else None
        if node.op not in ("call_function", "call_method") or self.graph.error(node) is not None:
            return None
        name, sources = op_name(node), node.all_input_nodes
        if name in _OF_ONES:
            shape = self.graph.shape(node)
            return torch.full(shape, _OF_ONES[name]) if shape and torch.Size(shape).numel() <= _MOST else None
        if name in _RANDOM or any(self._known.get(n) is None for n in sources):
            return None
        if not sources and self.graph.kind(node) is not Kind.FACTORY:
            return None
        if name == "getitem" and not isinstance(self._known[sources[0]], torch.Tensor):
            return select(self._known[sources[0]], node.args[1])
        if any(t.numel() > _MOST for _, t in tensors(node.meta.get("val"))):
            return None
        return self._run(node)

    def _run(self, node: fx.Node) -> Any:
        """The op itself, on copies, since it may work in place."""

        def known(source: fx.Node) -> Any:
            found = self._known[source]
            return found.detach().clone() if isinstance(found, torch.Tensor) else found

        args, kwargs = map_arg(node.args, known), {**map_arg(node.kwargs, known)}
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        try:
            with torch.no_grad():
                if node.op == "call_method":
                    found = getattr(args[0], str(node.target))(*args[1:], **kwargs)
                else:
                    found = node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:
            return None
        return args[0] if op_name(node) == "setitem" else found


def _is_real(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "meta" and not isinstance(tensor, FakeTensor) and tensor.layout is torch.strided
