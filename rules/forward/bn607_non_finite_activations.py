"""BN607 non-finite-activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel
    from bnlint.signal.nonfinite import Origin


class NonFiniteActivations(Rule):
    """An op of the forward pass makes NaN or infinity out of finite values.

    Why it matters: one NaN in an activation spreads to every value it is mixed with, then to the loss and, with the
    first backward pass, to every weight. What training shows is a loss of NaN; this names the op that made the first
    one, the range of the values it got and the ops before it.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 32)
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            x = self.hidden(x).sqrt()
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(16, 32)
            self.relu = nn.ReLU()
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            x = (self.relu(self.hidden(x)) + 1e-6).sqrt()
            return self.head(x)
    ```

    Masks of minus infinity that a softmax or a maximum uses up are no finding, nor are outputs that a mask sets to
    minus infinity. A NaN that something downstream replaces, or that comes from the input alone (the logarithm of a
    negative input, say), is info.

    References: documentation of `torch.autograd.detect_anomaly`, which finds the same in the backward pass only.
    """

    code = "BN607"
    name = "non-finite-activations"
    severity = Severity.ERROR
    phase = Phase.FORWARD
    yields_to = ("BN306",)

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Names the first op whose output is not finite although its inputs are."""
        from bnlint.graph.ops import op_name
        from bnlint.signal.halves import overflow
        from bnlint.signal.nonfinite import first_origin

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        origin = first_origin(graph, probe.stats)
        if origin is None or overflow(graph, probe.stats) is not None:  # BN801's
            return
        stats = probe.stats[origin.node.name]
        what = "NaN" if stats.has_nan else "infinity"
        ranges = [_range(model, n) for n in origin.inputs]
        given = f" from values in {' and '.join(ranges)}" if ranges else ""
        harmless = origin.from_input_only or not origin.reaches_output
        yield self.finding(
            model.place(origin.node),
            f"`{op_name(origin.node)}` makes {what}{given}",
            severity=Severity.INFO if harmless else Severity.ERROR,
            help=_help(op_name(origin.node), origin, nan=stats.has_nan),
            note=_note(model, origin),
            evidence={"op": op_name(origin.node), "nan": stats.has_nan, "reaches_output": origin.reaches_output},
        )


def _help(name: str, origin: Origin, *, nan: bool) -> str:
    if origin.from_input_only:
        return "only the input is involved: pass one with realistic values by --input-fn"
    if name == "softmax":
        return (
            "a row masked with minus infinity everywhere has no softmax; leave one entry or mask with a finite number"
        )
    if name in ("log", "log2", "log10", "log1p") and nan:
        return "the logarithm of a negative number: make the values positive first, by `softplus` or `clamp(min=1e-6)`"
    cures = {
        "sqrt": "add an epsilon inside the root and keep its input from being negative",
        "rsqrt": "add an epsilon inside the root and keep its input from being negative",
        "log": "add an epsilon, or use `log1p`, `logsumexp`, `log_softmax` or `logsigmoid`",
        "exp": "subtract the maximum first, or clamp the exponent",
        "div": "add an epsilon to the divisor",
        "truediv": "add an epsilon to the divisor",
        "pow": "keep the base positive, or the exponent an integer",
        "std": "a standard deviation of one value is NaN; use `unbiased=False` or more values",
        "var": "a variance of one value is NaN; use `unbiased=False` or more values",
    }
    return cures.get(name, "keep the values this op gets within the range where its result is finite")


def _note(model: AuditedModel, origin: Origin) -> str:
    rows = [_range(model, node) for node in origin.before]
    gone = "" if origin.reaches_output else "; it does not reach an output"
    return f"the ops before it: {', '.join(rows)}{gone}" if rows else gone.lstrip("; ")


def _range(model: AuditedModel, node: fx.Node) -> str:
    from bnlint.signal.describe import label

    assert model.probe is not None
    stats = model.probe.stats[node.name]
    return f"`{label(model, node)}` [{stats.minimum:.3g}, {stats.maximum:.3g}]"
