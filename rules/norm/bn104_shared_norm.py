"""BN104 shared-norm."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph
    from bnlint.graph.norms import Norm, Norms


class SharedNorm(Rule):
    """One norm with running statistics normalises several different tensors in one forward pass.

    Why it matters: in training every call uses the statistics of its own tensor, but all calls write the same running
    mean and variance. What is kept is a mixture that fits none of them, weighted towards the last call, and evaluation
    uses it for all. Two tensors with standard deviations 1 and 5 leave a running variance of about 13: in evaluation
    the first comes out 3.6 times too small, the second 1.4 times too large. Detection heads shared over feature levels
    are the known case: weights may be shared, the norms should not be.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm(self.conv1(x)))
            x = self.relu(self.norm(self.conv2(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.relu(self.norm1(self.conv1(x)))
            x = self.relu(self.norm2(self.conv2(x)))
            return self.fc(x.mean(dim=(2, 3)))
    ```

    Known limits: a norm that is shared together with the layers before it, on tensors of one shape, is a siamese
    network and info: whether the two inputs look alike is not in the code. A loop that feeds a block its own output, or
    the slices of one tensor one after the other, is not reported.

    References: Wu & Johnson 2021, Rethinking "Batch" in BatchNorm (arXiv 2105.07576), section 5 on shared heads;
    github.com/open-mmlab/mmdetection issue 6515 and github.com/Mhaiyang/ICCV2019_MirrorNet issue 4, real cases.
    """

    code = "BN104"
    name = "shared-norm"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the calls of each norm: the layers before them, their shapes and what their inputs come from."""
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        norms = Norms(graph)
        calls: dict[str, list[Norm]] = {}
        for norm in norms:
            if norm.running:
                calls.setdefault(norm.path, []).append(norm)
        causes: dict[tuple[Severity, str, int], list[tuple[str, list[Norm]]]] = {}
        for path, uses in calls.items():
            severity = _judge(model, norms, uses) if len(uses) > 1 else None
            if severity is not None:
                cause = (severity, path.partition(".")[0], len(uses))  # a shared part is one cause, whatever is in it
                causes.setdefault(cause, []).append((path, uses))
        for (severity, _, _), rows in causes.items():
            yield self._finding(model, severity, rows)

    def _finding(self, model: AuditedModel, severity: Severity, rows: list[tuple[str, list[Norm]]]) -> Finding:
        graph = model.graph
        assert graph is not None
        path, uses = rows[0]
        shapes = list(dict.fromkeys(str(list(graph.shape(norm.source))) for norm in uses))
        certain = severity is Severity.WARNING
        return self.finding(
            model.place(uses[0].node),
            f"`{path}` is called on {len(uses)} tensors in one forward pass ({', '.join(shapes[:4])}): its running "
            f"statistics mix them",
            severity=severity,
            help=f"give each of the {len(uses)} its own norm"
            if certain
            else "fine when the inputs look alike; else pass them as one batch, or give each its own norms",
            evidence={"calls": len(uses), "shapes": shapes},
            others=[model.place(other[0].node) for _, other in rows[1:]],
        )


def _judge(model: AuditedModel, norms: Norms, uses: list[Norm]) -> Severity | None:
    """Warning for different layers or sizes, info for a siamese use, None for a loop."""
    graph = norms.graph
    before = [_feeders(norms, norm) for norm in uses]
    lines = {model.call_line(norm.node) for norm in uses}
    repeats = len(set(before)) == 1 or (len(uses) > 2 and len(set(before[1:])) == 1)  # the first may follow the input
    if repeats and (_is_chain(norms, uses) or (len(lines) == 1 and _walks_slices(graph, uses))):
        return None
    if len({graph.shape(norm.source) for norm in uses}) > 1 or len(set(before)) > 1:
        return Severity.WARNING
    return Severity.INFO


def _feeders(norms: Norms, norm: Norm) -> frozenset[str]:
    """The layers whose output a norm gets; an input of the model counts as nothing."""
    made = norms.makers(norm.node)
    return frozenset(str(n.target) for n in made if n.op == "call_module")


def _is_chain(norms: Norms, uses: list[Norm]) -> bool:
    """True when every call works on what came out of the one before."""
    graph = norms.graph
    for first, second in pairwise(uses):
        reached = {first.node}
        for node in graph.nodes[graph.position[first.node] + 1 : graph.position[second.node] + 1]:
            if any(n in reached for n in node.all_input_nodes):
                reached.add(node)
        if second.node not in reached:
            return False
    return True


def _walks_slices(graph: Graph, uses: list[Norm]) -> bool:
    """True when the calls work, one after the other, on slices of the same tensor: time steps, crops, groups."""
    roots = [_root(graph, norm.node) for norm in uses]
    return None not in roots and len(set(roots)) == 1


def _root(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The tensor of which one call's input is a slice; None when it is no slice."""
    from bnlint.graph.ops import SHAPE_ONLY, Kind

    call = _outer_call(graph, node)
    here = call[0] if call else graph.data(node)
    sliced = False
    while here is not None and graph.kind(here) in SHAPE_ONLY | {Kind.INDEX, Kind.SPLIT}:
        sliced = sliced or graph.kind(here) in (Kind.INDEX, Kind.SPLIT)
        here = graph.data(here)
    return here if sliced else None


def _outer_call(graph: Graph, node: fx.Node) -> tuple[fx.Node, ...]:
    """The inputs of the outermost module call that runs more than once and holds this node."""
    index = node.meta["index"]
    counts: dict[str, int] = {}
    for call in graph.recording.calls:
        counts[call.path] = counts.get(call.path, 0) + 1
    around = [c for c in graph.recording.calls if c.path and counts[c.path] > 1 and c.first <= index < max(c.last, 1)]
    return min(around, key=lambda c: c.first).inputs if around else ()
