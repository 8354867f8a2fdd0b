"""The inputs of one forward pass: real tensors, what to call them, and which axis is the batch."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from bnlint.graph.nest import map_tensors, tensors
from bnlint.inputs.error import InputError
from bnlint.spec import InputSpec, TensorSpec

Parameter = inspect.Parameter
_DATA = ("inputs=", "--input-fn", "--batch")
_TOLD = (*_DATA, "--input", "bnlint_inputs()")


@dataclass
class Inputs:
    """The arguments of forward, and a row for the report for each tensor in them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)  # name, shape, dtype, from
    inferred: bool = False  # sizes were found by trying, not told
    batch_size: int = 1
    batch_axes: list[int | None] = field(default_factory=list)  # one for each row
    targets: Any = None  # what the declared loss compares the output with, when the user's batch has it
    batch_told: bool = False  # the user chose the batch size; an example that the model keeps is only a shape

    @property
    def is_data(self) -> bool:
        """True for a batch that a person's code or file gave, which is taken for real data."""
        return bool(self.rows) and all(str(row["from"]).startswith(_DATA) for row in self.rows)

    def with_batch(self, size: int) -> Inputs | None:
        """The same inputs with another number of samples; None when nothing can change."""
        return resized(self, size)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Every tensor, in the order of `rows`."""
        return [tensor for _, tensor in tensors((self.args, self.kwargs))]


def resized(inputs: Inputs, batch: int | None = None, scale: float | None = None) -> Inputs | None:
    """The same inputs with another batch size, or with maps (four axes and more) scaled; None when nothing can change.

    Samples and positions are repeated or left out, so the values, and with them bounds and masks, stay what they were.
    """
    rows = zip(inputs.tensors, inputs.batch_axes, strict=True)
    changed = {id(tensor): _resized(tensor, axis, batch, scale) for tensor, axis in rows}
    if all(changed[id(tensor)] is tensor for tensor in inputs.tensors):
        return None
    args, kwargs = map_tensors((inputs.args, inputs.kwargs), lambda tensor: changed[id(tensor)])
    rows_now = [
        {**row, "shape": list(changed[id(tensor)].shape)}
        for row, tensor in zip(inputs.rows, inputs.tensors, strict=True)
    ]
    now = replace(inputs, args=args, kwargs=kwargs, rows=rows_now, batch_size=batch or inputs.batch_size)
    if batch is not None and inputs.targets is not None:
        size = inputs.batch_size
        now.targets = map_tensors(now.targets, lambda t: _cycled(t, 0, batch) if t.shape[:1] == (size,) else t)
    return now


def with_batch(inputs: Inputs, batch: int, seed: int) -> Inputs:
    """An example with another number of samples; the added ones vary by its spread, or all samples would be one."""
    found, have = resized(inputs, batch) or inputs, inputs.batch_size
    generator = torch.Generator().manual_seed(seed)
    for tensor, axis in zip(found.tensors, found.batch_axes, strict=True):
        if axis is not None and tensor.dtype.is_floating_point and tensor.shape[axis] > have:
            added = tensor.narrow(axis, have, tensor.shape[axis] - have)
            added += tensor.std(correction=0) * torch.randn(added.shape, generator=generator).to(added)
    return found


def _resized(tensor: torch.Tensor, axis: int | None, batch: int | None, scale: float | None) -> torch.Tensor:
    if axis is not None and batch is not None and tensor.shape[axis] != batch:
        tensor = _cycled(tensor, axis, batch)
    if scale is not None and tensor.ndim >= 4:
        for dim in range(2, tensor.ndim):
            tensor = _cycled(tensor, dim, max(1, round(tensor.shape[dim] * scale)))
    return tensor


def _cycled(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    return tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside `torch.compile`, DataParallel and DistributedDataParallel."""
    if isinstance(model, torch.jit.ScriptModule):
        return model
    for name in ("_orig_mod", "module"):
        inner = model._modules.get(name)
        if inner is not None and type(model).__module__.startswith("torch."):
            return unwrapped(inner)
    return model


def parameters_of(model: nn.Module) -> list[Parameter]:
    """The parameters of forward; of unknown ones, any positional argument."""
    model = unwrapped(model)
    schema = getattr(model.forward, "schema", None) if isinstance(model, torch.jit.ScriptModule) else None
    if schema is not None:
        kind = Parameter.POSITIONAL_OR_KEYWORD
        return [
            Parameter(a.name, kind, default=a.default_value if a.has_default_value() else Parameter.empty)
            for a in schema.arguments[1:]
        ]
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return [Parameter("args", Parameter.VAR_POSITIONAL)]


def is_required(parameter: Parameter) -> bool:
    """True when forward cannot be called without it."""
    return parameter.default is Parameter.empty and parameter.kind not in (
        Parameter.VAR_POSITIONAL,
        Parameter.VAR_KEYWORD,
    )


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's first floating parameter."""
    return next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.get_default_dtype())


def from_specs(model: nn.Module, specs: Sequence[InputSpec], seed: int) -> Inputs:
    """The inputs that `--input` describes, bound to forward's parameters."""
    generator = torch.Generator().manual_seed(seed)
    dtype = model_dtype(model)

    def value(spec: InputSpec) -> Any:
        if not isinstance(spec.value, TensorSpec):
            return spec.value
        try:
            return spec.value.make(generator, dtype)
        except RuntimeError as error:
            raise InputError(f"the input `{spec}` cannot be made: {str(error).splitlines()[0]}") from None

    values = [(spec.name, value(spec)) for spec in specs]
    args = tuple(item for name, item in values if name is None)
    return bound(model, args, {name: item for name, item in values if name is not None}, "--input")


def from_values(model: nn.Module, value: Any, source: str = "inputs=") -> Inputs:
    """Inputs from what a person's code gave: a tensor, a tuple or list of arguments, or a dict of keyword arguments."""
    names = [p.name for p in parameters_of(model)]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple) and _are_names(value[1], names):
        return bound(model, value[0], dict(value[1]), source)
    if isinstance(value, Mapping) and (_are_names(value, names) or _takes_any(model)):
        return bound(model, (), {str(key): item for key, item in value.items()}, source)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return bound(model, value, {}, source)
    if isinstance(value, list) and not _is_one_argument(model, value):
        return bound(model, tuple(value), {}, source)
    return bound(model, (value,), {}, source)


def _are_names(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, Mapping) and all(key in names for key in value)


def _takes_any(model: nn.Module) -> bool:
    rows = parameters_of(model)
    return any(p.kind is Parameter.VAR_KEYWORD for p in rows) and not any(map(is_required, rows))


def _is_one_argument(model: nn.Module, value: list[Any]) -> bool:
    rows = parameters_of(model)
    limit = sum(p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for p in rows)
    return len(value) > limit and not any(p.kind is Parameter.VAR_POSITIONAL for p in rows)


def bound(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    source: str | Callable[[str], str],
    *,
    inferred: bool = False,
    batch: Mapping[str, int | None] | None = None,
) -> Inputs:
    """Checks the arguments against forward's signature and describes every tensor in them.

    `batch` says by name which axis is the batch; without it the leading axis is, where it has the common length.
    """
    named = _named(model, args, kwargs)
    rows = [(name, tensor) for key, value in named for name, tensor in _tensor_names(key, value)]
    leading = [tensor.shape[0] for _, tensor in rows if tensor.ndim]
    size = max(leading, key=lambda n: (leading.count(n), -leading.index(n))) if leading else 1
    axes = {name: 0 if tensor.ndim and tensor.shape[0] == size else None for name, tensor in rows} | dict(batch or {})
    sizes = [tensor.shape[axis] for name, tensor in rows if (axis := axes[name]) is not None]
    return Inputs(
        args,
        kwargs,
        [_row(name, tensor, source(name) if callable(source) else source) for name, tensor in rows],
        inferred,
        sizes[0] if sizes else 1,
        [axes[name] for name, _ in rows],
        batch_told=isinstance(source, str) and source.startswith(_TOLD),
    )


def _row(name: str, tensor: torch.Tensor, source: str) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "from": source,
    }


def _tensor_names(name: str, value: Any) -> list[tuple[str, torch.Tensor]]:
    def text(key: Any) -> str:
        return f".{key}" if isinstance(key, str) else f"[{key}]"

    return [(name + "".join(map(text, index)), tensor) for index, tensor in tensors(value)]


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(parameter, value) in the order of the arguments; raises InputError when they do not fit the signature."""
    parameters = parameters_of(model)
    positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    starred = next((p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL), None)
    names = [p.name for p in positional[: len(args)]]
    if len(args) > len(positional):
        named = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY and is_required(p)]
        if starred is None and named and not positional:
            raise _misfit(model, f"takes {_listed(named)} by name only, as in --input '{named[0]}=8x16'")
        if starred is None:
            raise _misfit(model, f"takes {_count(len(positional))}, and {len(args)} were given")
        names += [f"{starred}_{index}" for index in range(len(args) - len(positional))]
    _check_keywords(model, parameters, names, kwargs)
    missing = [p.name for p in parameters if is_required(p) and p.name not in names and p.name not in kwargs]
    if missing:
        raise _misfit(model, f"also needs {_listed(missing)}", missing)
    return [*zip(names, args, strict=True), *kwargs.items()]


def _check_keywords(
    model: nn.Module, parameters: Sequence[Parameter], given: Sequence[str], kwargs: Mapping[str, Any]
) -> None:
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind not in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)]
    for name in kwargs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise _misfit(model, f"has no input `{name}`" + (f" (did you mean `{near[0]}`?)" if near else ""))
        if name in given:
            raise _misfit(model, f"is given `{name}` twice, by position and by name")


def _misfit(model: nn.Module, text: str, missing: Sequence[str] = ()) -> InputError:
    parameters = parameters_of(model)
    signature = ", ".join(str(p).partition(":")[0] for p in parameters)
    write = " ".join(f"--input '{name}=…'" for name in missing)
    help = f"add {write}" if missing else f"its signature is forward({signature})"
    return InputError(f"`{type(unwrapped(model)).__name__}.forward` {text}", help=help, missing=list(missing))


def _count(number: int) -> str:
    return "no inputs" if not number else f"{number} input{'s' * (number > 1)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(f"`{n}`" for n in names[:-1]), f"`{names[-1]}`"]))
