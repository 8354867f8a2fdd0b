"""Writes `init_weights` for one model: the text of a function that `model.apply` takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

from bnlint.graph.model import AuditedModel
from bnlint.graph.ops import Kind
from bnlint.signal.initial import Initials, LayerInit

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_GAINS = {"relu": "relu", "relu6": "relu", "tanh": "tanh", "": "linear", "selu": "linear"}


def suggestion(model: AuditedModel, initials: Initials, rows: Iterable[LayerInit]) -> str:
    """The function, imports included; most layers are drawn by their class, the others by their name."""
    rows = [row for row in rows if model.module.get_parameter(row.name).requires_grad]
    layers = [row for row in rows if _is_layer(model, row)]
    usual = {kind: _usual(row for row in layers if row.kind == kind) for kind in dict.fromkeys(r.kind for r in layers)}
    others = [row for row in rows if row not in layers or _draw(row) != usual[row.kind]]
    name = type(model.module).__name__
    body = [
        "def init_weights(module: nn.Module) -> None:",
        f'    """Starts each layer of {name} with the scale its place calls for: model.apply(init_weights)."""',
    ]
    branches = [*_by_class(model, usual), *_of_other_classes(model)]
    for number, (classes, lines) in enumerate(branches):
        test = classes[0] if len(classes) == 1 else f"({', '.join(classes)})"
        body += [
            f"    {'elif' if number else 'if'} isinstance(module, {test}):",
            *(f"        {line}" for line in lines),
        ]
    named = [*_by_name(model, others), *_zero_norms(model, initials)]
    if named:
        body += [f"    if {_is_whole(model)}:  # `apply` comes to the whole model last"]
        body += [f"        {line}" for line in named]
    if len(body) == 2:
        body.append("    return")
    return "\n".join(["from torch import nn", "", "", *body]) + "\n"


def _is_whole(model: AuditedModel) -> str:
    """The test by which the function knows the model from its parts."""
    modules = list(model.module.modules())
    name = type(model.module).__name__
    if sum(type(module).__name__ == name for module in modules) == 1:
        return f'type(module).__name__ == "{name}"'
    return f"len(list(module.modules())) == {len(modules)}"


def _is_layer(model: AuditedModel, row: LayerInit) -> bool:
    """True for the weight of a plain layer, which a branch for its class can draw."""
    path, _, key = row.name.rpartition(".")
    module = model.module.get_submodule(path)
    plain = type(module) is getattr(nn, row.kind, None) and not isinstance(module, nn.Embedding)
    return bool(row.node) and key == "weight" and plain


def _usual(rows: Iterable[LayerInit]) -> str:
    """How most layers of a class are drawn."""
    return Counter(_draw(row) for row in rows).most_common(1)[0][0]


def _draw(row: LayerInit) -> str:
    """The call that draws a weight, with a gap for the tensor."""
    if row.place.zero:
        return "nn.init.zeros_({})"
    name, fans = row.place.activation, row.fans
    if fans.real_in != fans.torch_in:
        return f"nn.init.normal_({{}}, std={row.wanted:.3g})"
    if row.place.slope:
        return f'nn.init.kaiming_normal_({{}}, a={row.place.slope:g}, nonlinearity="leaky_relu")'
    if name in _GAINS:
        return f'nn.init.kaiming_normal_({{}}, nonlinearity="{_GAINS[name]}")'
    return f"nn.init.normal_({{}}, std={1 / math.sqrt(row.place.moment):.4g} / {{}}[0].numel() ** 0.5)"


def _by_class(model: AuditedModel, usual: dict[str, str]) -> Iterator[tuple[list[str], list[str]]]:
    """Layers of classes that are drawn alike together."""
    for draw in dict.fromkeys(usual.values()):
        kinds = [kind for kind, other in usual.items() if other == draw]
        paths = [m for m in model.module.modules() if type(m).__name__ in kinds]
        lines = [draw.replace("{}", "module.weight")]
        if any(not p.requires_grad for m in paths for p in m.parameters(recurse=False)):
            lines = ["if module.weight.requires_grad:", f"    {lines[0]}"]
        if any(getattr(m, "bias", None) is not None for m in paths):
            lines += ["if module.bias is not None:", "    nn.init.zeros_(module.bias)"]
        yield [f"nn.{kind}" for kind in kinds], lines


def _of_other_classes(model: AuditedModel) -> Iterator[tuple[list[str], list[str]]]:
    """Norms and recurrent layers."""
    modules = [m for m in model.module.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    norms = [m for m in modules if isinstance(m, _NORMS) and m.weight is not None and hasattr(nn, type(m).__name__)]
    classes = list(dict.fromkeys(f"nn.{type(m).__name__}" for m in norms))
    if classes:
        lines = ["nn.init.ones_(module.weight)", "if module.bias is not None:", "    nn.init.zeros_(module.bias)"]
        affine = all(m.weight is not None for m in model.module.modules() if isinstance(m, _NORMS))
        yield classes, lines if affine else ["if module.weight is not None:", f"    {lines[0]}", *lines[1:]]
    if any(isinstance(m, nn.RNNBase) for m in modules):
        gates = [m for m in modules if isinstance(m, nn.LSTM)]
        yield ["nn.RNNBase"], _recurrent(bool(gates))


def _recurrent(lstm: bool) -> list[str]:
    lines = [
        "for name, parameter in module.named_parameters():",
        '    if "weight_hh" in name:',
        "        for gate in parameter.data.split(module.hidden_size):",
        "            nn.init.orthogonal_(gate)",
        '    elif "weight" in name:',
        "        nn.init.xavier_uniform_(parameter)",
        "    else:",
        "        nn.init.zeros_(parameter)",
    ]
    if lstm:
        lines += [
            '        if isinstance(module, nn.LSTM) and "bias_ih" in name:  # forget gates that start open',
            "            nn.init.ones_(parameter.data[module.hidden_size : 2 * module.hidden_size])",
        ]
    return lines


def _by_name(model: AuditedModel, rows: Iterable[LayerInit]) -> Iterator[str]:
    """The weights that differ from the usual of their class, those drawn alike together."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        path = row.name.rpartition(".")[0]
        module = model.module.get_submodule(path)
        if isinstance(module, nn.RNNBase):
            continue
        draw = _draw(row) if row.node else _unplaced(model, row)
        if draw:
            groups.setdefault(draw, []).append(row.name)
    for draw, names in groups.items():
        yield from _loop(names, draw)


def _unplaced(model: AuditedModel, row: LayerInit) -> str:
    """For one that no layer of the run uses: those inside attention and transformer layers; "" leaves it as it is."""
    module = model.module.get_submodule(row.name.rpartition(".")[0])
    drawn = isinstance(module, nn.MultiheadAttention | nn.Linear)  # as nn.Transformer does
    return "nn.init.xavier_uniform_({})" if drawn else ""


def _loop(names: list[str], draw: str) -> Iterator[str]:
    if len(names) == 1:
        yield draw.replace("{}", f'module.get_parameter("{names[0]}")')
        return
    yield "for name in ("
    yield from (f'    "{name}",' for name in names)
    yield "):"
    if draw.count("{}") == 1:
        yield "    " + draw.replace("{}", "module.get_parameter(name)")
    else:
        yield "    weight = module.get_parameter(name)"
        yield "    " + draw.replace("{}", "weight")


def _zero_norms(model: AuditedModel, initials: Initials) -> Iterator[str]:
    """The scale of the last norm of every residual branch."""
    graph = initials.graph
    names = []
    for node in initials.branch_ends:
        module = graph.module(node)
        weight = getattr(module, "weight", None)
        if graph.kind(node) is Kind.NORM and isinstance(module, nn.modules.batchnorm._NormBase) and weight is not None:
            names.append(f"{node.target}.weight")
    yield from _loop(names, "nn.init.zeros_({})") if names else ()
