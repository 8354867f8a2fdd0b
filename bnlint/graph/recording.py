"""What a recording holds: the graph, the calls of modules, and the error that ended it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from bnlint.graph.frames import Call


@dataclass(frozen=True)
class OpError:
    """Why an op failed: the exception, and how the run went on."""

    kind: str
    message: str
    repair: str  # "declared" when the stand-in's shape is what the layer itself declares, "guess" otherwise


@dataclass
class ModuleCall:
    """One call of a module that is not a leaf: which values went in and came out."""

    path: str
    first: int  # index of its first op among the recorded nodes
    last: int = 0
    inputs: tuple[fx.Node, ...] = ()
    outputs: tuple[fx.Node, ...] = ()


@dataclass
class Recording:
    """What one forward pass did."""

    graph: fx.Graph
    fake: bool
    output: Any = None
    calls: list[ModuleCall] = field(default_factory=list)
    error: BaseException | None = None  # what ended the run early; None when it reached the end
    error_call: Call | None = None
    unregistered: dict[str, nn.Module] = field(default_factory=dict)  # modules called that named_modules() lacks

    @property
    def errors(self) -> list[fx.Node]:
        """Nodes whose op raised."""
        return [node for node in self.graph.nodes if "error" in node.meta]
