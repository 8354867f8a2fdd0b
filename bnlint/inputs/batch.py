"""`--batch`: the first batch of the user's own data, and which part of it is the input and which the target."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bnlint.checkpoint import read_safetensors, read_tensors
from bnlint.failure import BuildError
from bnlint.graph.nest import tensors
from bnlint.inputs.error import InputError
from bnlint.inputs.told import called, named_object
from bnlint.inputs.values import Inputs, from_values, is_required, parameters_of
from bnlint.rule import Place

_FILES = (".pt", ".pth", ".npz", ".safetensors")
_TARGETS = ("labels", "label", "targets", "target", "y")
_WRITE = (
    "write --batch file.py:loader, a DataLoader, an iterator or a function that returns one batch; or name a .pt, .npz "
    "or .safetensors file"
)


def from_batch(model: nn.Module, text: str, user_module: ModuleType | None, seed: int) -> Inputs:
    """The inputs in the first batch; the rest is kept as the targets of a declared loss."""
    value = _read(Path(text)) if Path(text).suffix in _FILES else _first(model, text, user_module, seed)
    given, targets = _parted(model, value)
    return replace(from_values(model, given, "--batch"), targets=targets)


def _first(model: nn.Module, text: str, user_module: ModuleType | None, seed: int) -> Any:
    target, found = named_object(text, user_module, "batch", _WRITE)

    def batch() -> Any:
        value = found(*target.args, **target.kwargs) if callable(found) and not _is_loader(found) else found
        if not _is_loader(value):
            return value
        first = next(iter(value), None)
        if first is None:
            raise InputError(f"`{text}` gives no batch", help="look whether its data set is empty, or used up")
        return first

    return called(model, batch, str(target.attribute), seed, _WRITE)


def _is_loader(value: Any) -> bool:
    """True for what gives one batch after the other; a tensor, list, tuple or dict is a batch itself."""
    return isinstance(value, Iterable) and not isinstance(value, (torch.Tensor, list, tuple, Mapping, str, type))


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"the batch `{path.as_posix()}` does not exist", help=_WRITE)
    try:
        if path.suffix == ".npz":
            value = _read_npz(path)
        else:
            value = read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)
    except BuildError as error:
        found = error.finding
        raise InputError(found.message, help=_SAVE, place=Place("", found.location)) from None
    if not any(True for _ in tensors(value)):
        raise InputError(f"the batch `{path.as_posix()}` holds no tensor", help=_SAVE)
    return value


_SAVE = 'save the batch as tensors: `torch.save({"x": x, "y": y}, "batch.pt")`'


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    import numpy

    try:
        with numpy.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        damaged = not zipfile.is_zipfile(path)
        reason = "is damaged or is no npz file" if damaged else f"cannot be read: {str(error).splitlines()[0]}"
        raise InputError(f"the batch `{path.as_posix()}` {reason}", help=_SAVE) from None


def _parted(model: nn.Module, value: Any) -> tuple[Any, Any]:
    """What forward takes, and what is left."""
    rows = parameters_of(model)
    positional = [p for p in rows if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(map(is_required, positional))
    if isinstance(value, Mapping):
        return _parted_by_name(value, [p.name for p in rows], required, any(p.kind is p.VAR_KEYWORD for p in rows))
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in rows)
        count = len(value) if takes_any or len(value) <= max(required, 1) else max(required, 1)
        first, rest = list(value[:count]), list(value[count:])
        return first[0] if len(first) == 1 else tuple(first), rest or None
    return value, None


def _parted_by_name(value: Mapping[Any, Any], names: list[str], required: int, takes_any: bool) -> tuple[Any, Any]:
    items = {str(key): item for key, item in value.items()}
    if takes_any:
        return items, None
    given = {name: item for name, item in items.items() if name in names}
    rest = {name: item for name, item in items.items() if name not in names}
    if not given and required <= 1:  # one input, whatever it is called
        inputs = [name for name in rest if name.lower() not in _TARGETS]
        if len(inputs) == 1 or (inputs and len(rest) == 2):
            return rest.pop(inputs[0]), rest or None
    if not given:
        listed = ", ".join(f"`{name}`" for name in items)
        raise InputError(f"the batch has {listed}, and forward takes `{', '.join(names)}`", help=_RENAME)
    ordered = {name: rest[name] for name in sorted(rest, key=lambda name: name.lower() not in _TARGETS)}
    return given, ordered or None


_RENAME = "name the entries of the batch like forward's arguments"
