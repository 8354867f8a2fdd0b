"""BN313 wrong-fan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norms
    from bnlint.signal.fans import Fans
    from bnlint.signal.schemes import Recognition, Scheme


class WrongFan(Rule):
    """The weights follow a scheme, but its fan was read off the wrong dimensions of the weight.

    Why it matters: `torch.nn.init` takes dimension 1 for the inputs and dimension 0 for the outputs. A transposed
    convolution stores them the other way round and reaches each output with only kernel / stride of its taps; a
    depthwise one has one input for each output; and a matrix used as `x @ w` has its inputs first. The scale is then
    off by the root of the ratio: kaiming's fan_out gives a depthwise 3x3 convolution of 64 channels weights 8 times too
    small.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(512, 32))
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
            self.out = nn.Linear(32, 10)

        def forward(self, x):
            return self.out(torch.relu(x @ self.weight))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(512, 32))
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
            self.out = nn.Linear(32, 10)

        def forward(self, x):
            return self.out(torch.relu(x @ self.weight))
    ```

    Known limits: only He, LeCun and Xavier draws count, and only where no scheme with the right fan and no fixed scale
    explains the same values. A factor below 8 of the variance, such as the 4 of a transposed convolution with kernel 4
    and stride 2, hardly matters in one layer. Behind a norm the scale does not matter at all, and nothing is said; nor
    about output layers.

    References: PyTorch documentation of `nn.init.kaiming_normal_`, the note on transposed weights; Tan & Le 2019,
    EfficientNet reference code, which divides the fan-out by the number of groups.
    """

    code = "BN313"
    name = "wrong-fan"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    max_factor: float = 8.0  # between the two fans, in either direction

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at layers whose fans differ from torch's, and at matrices used as `x @ w`."""
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        rows = [(node, *row) for node in _layers(graph) if (row := self._wrong(model, node)) is not None]
        if not rows or model.survey.trained:
            return
        norms = Norms(graph)
        for node, scheme, ratio in rows:
            if _is_normalised(graph, norms, node) or graph.is_last_layer(node):
                continue
            std = scheme.std * ratio**0.5
            yield self.finding(
                model.place(node),
                f"the weights are {scheme.label} for the wrong fan: {scheme.fan.replace('average', 'the sum of both')} "
                f"as torch counts it is {max(ratio, 1 / ratio):.3g} times too {'large' if ratio > 1 else 'small'} here "
                f"(limit {self.max_factor:g})",
                help=f"draw them with the layer's own fan: `nn.init.normal_(weight, std={std:.3g})`",
                evidence={"scheme": scheme.label, "std": scheme.std, "fitting_std": std, "ratio": ratio},
            )

    def _wrong(self, model: AuditedModel, node: fx.Node) -> tuple[Scheme, float] | None:
        """The scheme and by what factor its fan is too large; None when the scale may be right."""
        assert model.graph is not None
        found = _recognised(model, node)
        if found is None:
            return None
        recognition, fans = found
        swapped = fans.real_out == fans.torch_in  # so what torch takes for the fan-in, the usual choice, is the fan-out
        schemes = [scheme for scheme in recognition.schemes if scheme.tier < 3]
        if any(scheme.real and not (swapped and scheme.fan == "fan_out") for scheme in schemes):
            return None
        wrong = [(scheme, _ratio(fans, scheme.fan)) for scheme in schemes if not scheme.real]
        found_ratios = sorted(wrong, key=lambda row: max(row[1], 1 / row[1]))[:1]
        return next((row for row in found_ratios if max(row[1], 1 / row[1]) > self.max_factor), None)


def _is_normalised(graph: Graph, norms: Norms, node: fx.Node) -> bool:
    """True when a norm takes the scale out again, right behind the layer or behind linear ops only."""
    from bnlint.graph.ops import LINEAR_OPS, WEIGHT_LAYERS, Kind

    ends = graph.destinations(node, (LINEAR_OPS | WEIGHT_LAYERS | {Kind.ADD, Kind.CAT}) - {Kind.NORM})
    return norms.follows(node) or (bool(ends) and all(norms.at(end) is not None for end in ends))


def _layers(graph: Graph) -> list[fx.Node]:
    from bnlint.graph.ops import WEIGHT_LAYERS, Kind

    return graph.of_kind(*WEIGHT_LAYERS, Kind.MATMUL)


def _recognised(model: AuditedModel, node: fx.Node) -> tuple[Recognition, Fans] | None:
    """The scheme of a layer's weight and its fans, when those differ from what torch counts."""
    from bnlint.graph.ops import WEIGHT_LAYERS
    from bnlint.signal.fans import Fans, fans_of
    from bnlint.signal.schemes import recognise

    graph = model.graph
    assert graph is not None
    if graph.kind(node) in WEIGHT_LAYERS:
        module = graph.module(node)
        fans = fans_of(module) if module is not None else None
        if fans is None or (fans.real_in, fans.real_out) == (fans.torch_in, fans.torch_out):
            return None
        found = model.survey.of(f"{node.target}.weight")
        return (found, fans) if found is not None else None
    weight = _matrix(model, node)
    if weight is None:
        return None
    rows, columns = weight.shape
    fans = Fans(rows, columns, columns, rows)
    found = recognise(weight, fans)
    return (found, fans) if found is not None else None


def _matrix(model: AuditedModel, node: fx.Node) -> torch.Tensor | None:
    """The parameter that the node multiplies by from the right."""
    sources = node.all_input_nodes
    if len(sources) != 2 or node.args[:2] != tuple(sources) or sources[1].op != "get_attr":
        return None
    found = dict(model.module.named_parameters(remove_duplicate=False)).get(str(sources[1].target))
    return found if found is not None and found.ndim == 2 and found.shape[0] != found.shape[1] else None


def _ratio(fans: Fans, fan: str) -> float:
    if fan == "fan_in":
        return fans.torch_in / fans.real_in
    if fan == "fan_out":
        return fans.torch_out / fans.real_out
    return (fans.torch_in + fans.torch_out) / (fans.real_in + fans.real_out)
