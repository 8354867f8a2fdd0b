"""The audited model: what the stages found out, for the rules to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from torch import fx, nn

from bnlint.graph.fake import Unfollowable
from bnlint.graph.frames import Call, resolve
from bnlint.graph.names import held_outside, holds_values
from bnlint.graph.queries import Graph
from bnlint.graph.recording import ModuleCall
from bnlint.rule import Location, Place, Variant

if TYPE_CHECKING:
    from bnlint.graph.source import Source
    from bnlint.inputs import Inputs
    from bnlint.signal.predict import Prediction
    from bnlint.signal.probe import ProbeFacts
    from bnlint.signal.survey import Survey

__all__ = ["AuditedModel", "Graph"]


@dataclass
class AuditedModel:
    """Everything known about the model; each stage of the audit adds to it."""

    module: nn.Module  # the model itself
    name: str  # of its class or of what was named on the command line
    source: Source
    loss: str | None = None  # the name of the declared loss
    mode: str = "train"  # or eval
    dtype: str | None = None  # the format that the model is to run in; None for the one it is built in
    inputs: Inputs | None = None  # what forward was given
    graph: Graph | None = None  # one run of forward; there from phase GRAPH on
    predict: Callable[[], Prediction] | None = None
    look: Callable[[], Survey] | None = None
    unwritten: Mapping[str, int] = field(default_factory=dict)  # entries of a parameter that its builder never wrote
    weights: str | None = None  # the file that the values of the parameters were loaded from
    probe: ProbeFacts | None = None  # one real batch; there from phase FORWARD on
    record_variant: Callable[[Variant], Graph | None] = lambda variant: None
    unfollowed: list[str] = field(default_factory=list)  # variants that a rule asked for in vain
    _variants: dict[Variant, Graph | Unfollowable | None] = field(default_factory=dict)
    built_in_eval: frozenset[str] = field(init=False)  # modules found in eval mode inside a model in training mode

    def __post_init__(self) -> None:
        """Notes the modes before the audit sets its own."""
        modules = self.module.named_modules() if self.module.training else ()
        self.built_in_eval = frozenset(path for path, module in modules if not module.training)

    def place(self, node: fx.Node | None = None, path: str | None = None) -> Place:
        """Where a finding about a node, or about the module at a path, belongs."""
        if node is None:
            return Place(path or "", self.source.location(path or ""))
        call = self.call_line(node)
        if node.op != "call_module":
            return Place(node.meta.get("path", ""), call, None, node.name)
        return Place(str(node.target), self.source.location(str(node.target)) or call, call, node.name)

    def call_line(self, node: fx.Node) -> Location | None:
        """The line that calls the node's op."""
        return self.resolve_call(node.meta.get("call"))

    def resolve_call(self, call: Call | None) -> Location | None:
        """The source line of a point in running code."""
        return resolve(call) if call is not None else None

    @cached_property
    def prediction(self) -> Prediction | None:
        """The signal that the weights promise, worked out when first asked for; None without a recorded run."""
        return self.predict() if self.predict is not None else None

    @cached_property
    def survey(self) -> Survey:
        """Which scheme every parameter follows, and whether the model was trained."""
        assert self.look is not None
        return self.look()

    @cached_property
    def has_values(self) -> bool:
        """False for a model on the meta device, whose parameters and buffers have shapes and nothing else."""
        return holds_values(self.module)

    @cached_property
    def outside(self) -> dict[str, nn.Module]:
        """Modules held in plain lists, dicts, tuples or sets, by path."""
        return held_outside(self.module)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """The registered modules by path."""
        return dict(self.module.named_modules())

    def variant(self, variant: Variant) -> Graph | None:
        """The model recorded once more, in another mode or on another input size; None when that cannot be done.

        Costs a recording the first time, so first ask the graph whether it can matter.
        """
        if variant not in self._variants:
            try:
                self._variants[variant] = self.record_variant(variant)
            except Unfollowable as stop:
                self._variants[variant] = stop
        found = self._variants[variant]
        if isinstance(found, Unfollowable):
            self.unfollowed.append(f"{variant.value} ({found.reason})")
            return None
        return found

    @property
    def module_calls(self) -> list[ModuleCall]:
        """The calls of modules that are not leaves."""
        return self.graph.recording.calls if self.graph else []
