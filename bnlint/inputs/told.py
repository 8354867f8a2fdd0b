"""Inputs that somebody wrote down: a function of the user's, or the model's own example."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bnlint.failure import BuildError, said, users_traceback
from bnlint.graph.names import attribute
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.untouched import untouched
from bnlint.inputs.error import InputError
from bnlint.inputs.values import Inputs, from_values, unwrapped
from bnlint.load import load
from bnlint.rule import Place
from bnlint.target import Target, TargetError, parse

HOOK = "bnlint_inputs"


def from_function(model: nn.Module, text: str, user_module: ModuleType | None, seed: int) -> Inputs:
    """What `--input-fn file.py:make_inputs` returns."""
    target, function = named_object(text, user_module, "function", _WRITE)
    if not callable(function):
        raise InputError(f"`{target.attribute}` in `{target.place}` is not a function", help=_WRITE)
    value = called(model, lambda: function(*target.args, **target.kwargs), str(target.attribute), seed, _WRITE)
    return from_values(model, value, "--input-fn")


def named_object(text: str, user_module: ModuleType | None, what: str, write: str) -> tuple[Target, Any]:
    """The object that `file.py:name` names; `what` it should be and how to `write` it go into the error."""
    try:
        target = parse(text)
    except TargetError as error:
        words = f"`{text}` names no {what}" if " is not a target: " in str(error) else str(error)
        raise InputError(words, help=write) from None
    if target.attribute is None:
        raise InputError(f"`{text}` names no {what}", help=write)
    try:
        module = user_module if _same_file(target, user_module) else load(target)
    except BuildError as error:
        why = error.finding
        raise InputError(why.message, help=why.help, note=why.note, place=Place("", why.location)) from None
    found: Any = module
    for part in target.attribute.split("."):
        near = difflib.get_close_matches(part, dir(found), n=1)
        found = getattr(found, part, None)
        if found is None:
            help = f"did you mean `{target.place}:{near[0]}`?" if near else write
            raise InputError(f"`{target.place}` has no `{part}`", help=help)
    return target, found


_WRITE = "write --input-fn file.py:make_inputs, a function that returns a tensor, a tuple or a dict"


def _same_file(target: Target, module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file and target.path and target.path.is_file() and Path(file).samefile(target.path))


def own_example(model: nn.Module, user_module: ModuleType | None, seed: int) -> Inputs | None:
    """What the model's author wrote for the purpose: `bnlint_inputs()` or `example_input_array`; None without."""
    inner = unwrapped(model)
    for holder in (inner, user_module):
        function = attribute(holder, HOOK)
        if callable(function):
            return from_values(model, called(model, function, HOOK, seed, _WRITE), f"{HOOK}()")
    example = attribute(inner, "example_input_array")
    if example is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    return from_values(model, map_tensors(example, lambda tensor: _filled(tensor, generator)), "example_input_array")


def _filled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """An example that is all zeros, say, means its shape, and gets random values."""
    if not tensor.is_floating_point() or tensor.numel() < 2 or bool((tensor != tensor.flatten()[0]).any()):
        return tensor
    return torch.randn(tensor.shape, generator=generator).to(tensor)


def dummy_inputs(model: nn.Module) -> Inputs | None:
    """The `dummy_inputs` of a transformers model; None without, or when they do not fit forward."""
    value = attribute(unwrapped(model), "dummy_inputs")
    if not isinstance(value, Mapping):
        return None
    with contextlib.suppress(InputError):
        return from_values(model, dict(value), "dummy_inputs")
    return None


def called(model: nn.Module, function: Callable[[], Any], name: str, seed: int, write: str) -> Any:
    """What the user's function gives, its tensors on the CPU; the model and the random state stay as they are."""
    with untouched(model):
        torch.manual_seed(seed)
        try:
            value = function()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            note, location = users_traceback(error)
            raise InputError(f"`{name}` raises {said(error)}", note=note, place=Place("", location)) from error
    if not any(True for _ in tensors(value)):
        raise InputError(f"`{name}` returned {type(value).__name__} and no tensor", help=write)
    return map_tensors(value, lambda tensor: tensor.detach().cpu())
