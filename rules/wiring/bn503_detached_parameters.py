"""BN503 detached-parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.gradients import Cut
    from bnlint.graph.model import AuditedModel


class DetachedParameters(Rule):
    """Parameters take part in the forward pass, but no gradient can come back to them.

    Why it matters: `detach()`, `.data`, `argmax`, `round` or a comparison between a layer and the output ends the
    gradient there. The layers before it keep their random initial weights for the whole training while the loss still
    falls, because the layers behind them learn to make do: in a small experiment (10 classes, two hidden layers of 128,
    three seeds) an encoder that is cut off gives an accuracy of 0.55 where the trained one gives 0.63. With
    `DistributedDataParallel` the run stops with an error about unused parameters.

    It is an error when no parameter of the model gets a gradient, a warning for a part of it, and a remark where
    `torch.no_grad()` switches gradients off or a straight-through estimator is at work, as both are mostly meant.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            features = self.encoder(x).clone().detach()
            return self.head(features)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            features = self.encoder(x)
            return self.head(features)
    ```

    Known limits: a branch that is detached beside one that is not gets its gradient and is not reported, nor are
    parameters that forward itself updates (moving averages), frozen ones, or values that are kept in an attribute
    instead of returned. A part that gets a gradient from one loss and is cut off from another, as the decoder of an
    IntroVAE is by `encoder(x.detach())`, shows only in the training loop. To freeze a part on purpose, set
    `requires_grad_(False)` on it.

    References: PyTorch documentation, Autograd mechanics, "Locally disabling gradient computation";
    github.com/lucidrains/CoCa-pytorch issue 6, a real case; github.com/vturrisi/solo-learn issue 135 for a side branch
    detached on purpose.
    """

    code = "BN503"
    name = "detached-parameters"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Groups the parameters that get no gradient by what stops it."""
        from bnlint.graph.gradients import cut_parameters

        graph = model.graph
        assert graph is not None
        if not graph.runs or not _returns_numbers(model):
            return
        cuts, used = cut_parameters(graph, model.module)
        groups: dict[object, list[Cut]] = {}
        for cut in cuts:
            groups.setdefault(cut.ends or None, []).append(cut)
        all_cut = len(cuts) == used and any(cut.ends and not cut.straight_through for cut in cuts)
        for group in groups.values():
            yield self._finding(model, group, all_cut and model.mode == "train")

    def _finding(self, model: AuditedModel, group: Sequence[Cut], all_cut: bool) -> Finding:
        from bnlint.graph.ops import op_name

        places = _places(model, [cut.name for cut in group])
        ends = group[0].ends
        meant = not ends or group[0].straight_through
        severity = Severity.INFO if meant else Severity.ERROR if all_cut else Severity.WARNING
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(op_name(end) for end in ends))
        cause = f"{names} stops it" if ends else "it runs without gradients"
        who = "no parameter of the model" if severity is Severity.ERROR else f"`{places[0].module_path}`"
        verb = "gets a gradient" if severity is Severity.ERROR else "never gets a gradient"
        lines = [line.line for end in ends if (line := model.call_line(end)) is not None]
        where = f" (line {', '.join(map(str, dict.fromkeys(lines)))})" if lines else ""
        return self.finding(
            places[0],
            f"{who} {verb}: {cause}{where}",
            help="remove what stops it, or freeze the parameters with `requires_grad_(False)` if this is meant",
            severity=severity,
            evidence={"parameters": [cut.name for cut in group], "stopped_by": [op_name(end) for end in ends]},
            others=places[1:],
        )


def _returns_numbers(model: AuditedModel) -> bool:
    """A model that returns only labels or masks is being used, not trained."""
    import torch

    assert model.graph is not None
    values = [node.meta.get("val") for node in model.graph.outputs]
    return any(isinstance(v, torch.Tensor) and v.dtype.is_floating_point for v in values)


def _places(model: AuditedModel, names: Sequence[str]) -> list[Place]:
    """The outermost modules whose trainable parameters are all among the names, then the parameters left over."""
    from bnlint.graph.attributes import attribute_place

    left = set(names)
    places: list[Place] = []
    for path, module in model.module.named_modules():
        own = {f"{path}.{n}" for n, p in module.named_parameters() if p.requires_grad}
        if path and own and own <= left:
            places.append(model.place(path=path))
            left -= own
    return places + [attribute_place(model, name) for name in names if name in left]
