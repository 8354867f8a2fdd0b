"""BN401 missing-activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class MissingActivation(Rule):
    """Two linear layers follow each other with no nonlinearity between them.

    Why it matters: a linear map of a linear map is one linear map. `Linear(1024, 128)` followed by `Linear(128, 10)`
    computes exactly what `Linear(1024, 10)` can, at 13 times the parameters, and the depth that was paid for is not
    there. Batch norm, dropout, average pooling and reshapes between the two do not change this; max pooling alone is
    a weak nonlinearity and is reported as info.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 128)
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x):
            return self.fc2(self.fc1(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 128)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x):
            return self.fc2(self.relu(self.fc1(x)))
    ```

    Known limits: pairs that are linear by design are not reported: low-rank and bottleneck pairs (the middle is
    narrower than both ends), a Linear without bias before another, depthwise-separable and other grouped convs,
    factorised kernels (1xk then kx1), transposed convs, patch embeddings, the output projection of attention, a Linear
    that is reshaped into a map for a conv, outputs that more than one layer reads, a projection before a strided conv
    that keeps the channels. A 1x1 conv, or a strided one that keeps the channels, at the place
    where two classes meet is info.

    References: Goodfellow, Bengio & Courville 2016, Deep Learning, section 6.1; github.com/nutonomy/nuscenes-devkit
    issue 728, a real case; Sandler et al. 2018, MobileNetV2 (arXiv 1801.04381), for linear bottlenecks by design.
    """

    code = "BN401"
    name = "missing-activation"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Follows every plain linear layer, as long as its output has one reader, to the next weight layer."""
        from bnlint.graph.ops import LINEAR_OPS, Kind

        graph = model.graph
        assert graph is not None
        for node in graph.of_kind(Kind.CONV, Kind.LINEAR):
            path = list(graph.chain(node, LINEAR_OPS))
            end = path[-1] if path else None
            if end is None or graph.kind(end) is not graph.kind(node) or not _would_be_one_map(graph, node, path):
                continue
            pooled = any(_takes_maximum(graph, n) for n in path)
            meant = pooled or _joins_classes(model, node, end)
            yield self.finding(
                model.place(end),
                f"no activation between `{node.target}` and `{end.target}`"
                + ("; max pooling is all that is not linear" if pooled else ": together they are one linear map"),
                severity=Severity.INFO if meant else Severity.WARNING,
                help=f"put an activation such as `nn.ReLU()` after `{node.target}`, or drop one of the two layers",
                evidence={"first": str(node.target), "second": str(end.target)},
            )


def _name(graph: Graph, node: fx.Node) -> str:
    """The layer's path; of a function the path of the module that holds its weight."""
    found = graph.weight(node)
    return found[0].rpartition(".")[0] if found is not None else str(node.target)


def _would_be_one_map(graph: Graph, first: fx.Node, path: list[fx.Node]) -> bool:
    from bnlint.graph.features import mixes_positions

    second = path[-1]
    if (
        _name(graph, first) == _name(graph, second)
        or mixes_positions(graph, first)
        or _projects_attention(graph, first)
    ):
        return False
    if not all(_keeps_features(graph, node, second) for node in path[:-1]):
        return False
    sizes, after = _sizes(graph, first), _sizes(graph, second)
    if sizes is None or after is None:
        return False
    (fan_in, middle), (_, fan_out) = sizes, after
    if middle < min(fan_in, fan_out):
        return False
    if any(_is_grouped(graph, n) for n in (first, second)) or _ends_separable_conv(graph, first):
        return False
    if _is_factor(graph, first) or _makes_patches(graph, second) or _resamples(graph, first, second):
        return False
    return not _factorised(*(getattr(graph.module(n), "kernel_size", None) for n in (first, second)))


def _keeps_features(graph: Graph, node: fx.Node, second: fx.Node) -> bool:
    """True when what `second` reads through this op are still the features that the first layer made."""
    from bnlint.graph.folds import folds_features_into_batch
    from bnlint.graph.ops import Kind, op_name

    kind = graph.kind(node)
    if kind is Kind.NORM:
        return _per_channel(graph.module(node), op_name(node))  # other norms are no linear map of one sample
    if kind is Kind.POOL:
        return graph.kind(second) is not Kind.LINEAR or not graph.is_last_layer(second)
    if kind is Kind.RESHAPE:
        return not folds_features_into_batch(graph, node)
    return kind is not Kind.PERMUTE


def _per_channel(module: object, name: str) -> bool:
    from torch import nn

    return isinstance(module, nn.modules.batchnorm._BatchNorm) or name == "batch_norm"


def _sizes(graph: Graph, node: fx.Node) -> tuple[int, int] | None:
    """Input and output features of a layer."""
    found = graph.weight(node)
    return (int(found[1].shape[1]), int(found[1].shape[0])) if found is not None and found[1].ndim >= 2 else None


def _projects_attention(graph: Graph, node: fx.Node) -> bool:
    """The output projection of an attention: it reads what a matrix product of values gave."""
    from bnlint.graph.ops import Kind

    source = graph.data(node)
    return source is not None and any(graph.kind(n) in (Kind.MATMUL, Kind.ATTENTION) for n in graph.origins(source))


def _takes_maximum(graph: Graph, node: fx.Node) -> bool:
    from bnlint.graph.ops import Kind, op_name

    return graph.kind(node) is Kind.POOL and "max" in (node.meta.get("class") or op_name(node)).lower()


def _is_grouped(graph: Graph, node: fx.Node) -> bool:
    from bnlint.graph.ops import argument

    module = graph.module(node)
    return bool(getattr(module, "groups", argument(node, 6, "groups", 1)) != 1)


def _ends_separable_conv(graph: Graph, node: fx.Node) -> bool:
    """A pointwise conv behind a depthwise one: the linear bottleneck of an inverted residual."""
    from bnlint.graph.ops import LINEAR_OPS, Kind

    source = graph.data(node)
    made = graph.origins(source, LINEAR_OPS | {Kind.ACTIVATION, Kind.MUL, Kind.ADD}) if source is not None else []
    return graph.kind(node) is Kind.CONV and any(_is_grouped(graph, n) for n in made)


def _is_factor(graph: Graph, node: fx.Node) -> bool:
    """A Linear without bias before another Linear: coefficients of a basis, a matrix written as a product."""
    from bnlint.graph.ops import Kind

    module = graph.module(node)
    return graph.kind(node) is Kind.LINEAR and module is not None and getattr(module, "bias", None) is None


def _makes_patches(graph: Graph, node: fx.Node) -> bool:
    """A conv whose stride is its kernel: the projection of patches to tokens."""
    module = graph.module(node)
    kernel = getattr(module, "kernel_size", None)
    return kernel is not None and kernel == getattr(module, "stride", None) and max(kernel) > 1


def _is_pointwise(graph: Graph, node: fx.Node) -> bool:
    kernel = getattr(graph.module(node), "kernel_size", None)
    return kernel is not None and max(kernel) == 1


def _resamples(graph: Graph, first: fx.Node, second: fx.Node) -> bool:
    """A projection, then a strided conv that keeps the channels: the scale of a map is changed, as in DPT."""
    return _is_pointwise(graph, first) and _changes_scale(graph, second)


def _changes_scale(graph: Graph, node: fx.Node) -> bool:
    stride, sizes = getattr(graph.module(node), "stride", (1,)), _sizes(graph, node)
    return max(stride) > 1 and sizes is not None and sizes[0] == sizes[1]


def _joins_classes(model: AuditedModel, first: fx.Node, second: fx.Node) -> bool:
    """A projection or a change of scale at the place where two classes meet: whoever joined them may have known."""
    graph = model.graph
    assert graph is not None
    if not any(_is_pointwise(graph, n) or _changes_scale(graph, n) for n in (first, second)):
        return False
    return _class_of_owner(model, first) is not _class_of_owner(model, second)


def _class_of_owner(model: AuditedModel, node: fx.Node) -> type:
    """The class whose text holds the layer: of the nearest module around it that is no container."""
    from torch import nn

    path = str(node.target).rpartition(".")[0]
    while path and isinstance(model.modules.get(path), (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        path = path.rpartition(".")[0]
    return type(model.modules.get(path, model.module))


def _factorised(first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> bool:
    """1xk followed by kx1: one large kernel in two parts."""
    return bool(first and second) and first != second and first is not None and len(set(first)) > 1
