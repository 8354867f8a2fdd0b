"""Imports the user's code and builds the model. Runs in the worker process, or in-process for a debugger."""

from __future__ import annotations

import difflib
import inspect
import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bnlint.failure import BuildError, failed, said
from bnlint.graph.fresh import marked_memory, take_marks
from bnlint.graph.memory import out_of_memory
from bnlint.graph.names import ModuleNames, attribute
from bnlint.graph.source import ConstructionLog, Source, locate
from bnlint.load import as_script, load
from bnlint.target import Target

__all__ = ["BuildError", "Built", "build", "discover"]

Emit = Callable[[str], None]
_FUNCTION_INSTEAD = "for values that are not literals write a function that builds the model and check that function"
_NO_META = (
    "its constructor reads values, which do not exist there: work the number out in Python, or make that tensor with "
    "`device='cpu'`; or leave --meta out"
)


@dataclass
class Built:
    """A model and where it comes from."""

    model: nn.Module
    source: Source
    module: ModuleType | None
    name: str
    unwritten: dict[str, int] = field(default_factory=dict)  # entries of a parameter that nothing wrote to, by name


def build(
    target: Target, seed: int = 0, emit: Emit = lambda stage: None, root: str = "", *, meta: bool = False
) -> Built:
    """Imports the target's module and builds its model; raises BuildError (BN901, BN902).

    A package is also looked for in the folder `root`. With `meta`, tensors that the constructors make have no memory.
    """
    with as_script(target), ConstructionLog() as log, marked_memory():
        emit("import")
        _seed(seed)
        module = load(target, root)
        emit("construct")
        _seed(seed)
        with _made_on(meta):
            model = _construct(_attribute(module, target), target, meta)
    name = target.attribute or type(model).__name__
    return Built(model, locate(model, log), module, name, take_marks(model))


def discover(
    path: Path, seed: int = 0, emit: Emit = lambda stage: None, *, meta: bool = False
) -> tuple[list[str], list[tuple[str, str]]]:
    """Targets for the file's models, and the classes left out with the reason: parts of others, or not buildable."""
    target = Target(path.as_posix(), path=path)
    with as_script(target):
        emit("import")
        _seed(seed)
        module = load(target)
        emit("construct")
        classes = _own_classes(module)
        reasons = {name: _unbuildable(cls, module) for name, cls in classes.items()}
        parts: dict[type, str] = {}
        for name, cls in classes.items():
            if reasons[name] is None:
                _seed(seed)
                try:
                    with _made_on(meta):
                        model = cls()
                    for part in _parts(model):
                        parts.setdefault(part, name)
                except (Exception, SystemExit) as error:
                    if out_of_memory(error):
                        raise
                    reasons[name] = _base_only(cls, classes, error)
    for name, cls in classes.items():
        whole = parts.get(cls)
        if whole is not None and whole != name:
            reasons[name] = f"is a part of {whole}"
    targets = [f"{target.text}:{name}" for name, reason in reasons.items() if reason is None]
    return targets, [(name, reason) for name, reason in reasons.items() if reason is not None]


def _made_on(meta: bool) -> Any:
    return torch.device("meta") if meta else nullcontext()


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def _attribute(module: ModuleType, target: Target) -> Any:
    names = _names(module)
    if target.attribute is None:
        help = f"write `{target.place}:{names[0]}`" if names else "name a class or function that builds a model"
        raise failed("BN902", f"`{target.text}` names no model", help=help)
    value: Any = module
    path: list[str] = []
    for part in target.attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            holder = ".".join(path)
            known = names if value is module else [name for name in dir(value) if not name.startswith("_")]
            raise _missing_attribute(target, holder, part, known) from error
        path.append(part)
    return value


def _missing_attribute(target: Target, holder: str, part: str, known: list[str]) -> BuildError:
    owner = f"`{holder}` in `{target.place}`" if holder else f"`{target.place}`"
    near = [name for name in known if name.lower() == part.lower()] or difflib.get_close_matches(part, known, n=1)
    if near:
        help = f"did you mean `{target.place}:{f'{holder}.' if holder else ''}{near[0]}`?"
    else:
        help = f"it has: {', '.join(known[:10])}" if known else ""
    return failed("BN902", f"{owner} has no `{part}`", help=help)


def _construct(found: Any, target: Target, meta: bool) -> nn.Module:
    name = target.attribute
    if isinstance(found, nn.Module):
        if target.called:
            raise failed("BN902", f"`{name}` is a model already, not a class", help=f"write `{target.place}:{name}`")
        if meta:
            help = "name the class, or a function that builds the model, or leave --meta out"
            raise failed("BN902", f"`{name}` is built when its file is imported, before --meta can act", help=help)
        return found
    is_class = isinstance(found, type)
    if (is_class and not issubclass(found, nn.Module)) or not callable(found):
        kind = "a class" if is_class else "a module" if isinstance(found, ModuleType) else _a(type(found).__name__)
        help = "name a class derived from nn.Module, a function that returns one, or an instance"
        raise failed("BN902", f"`{name}` is {kind}, not an nn.Module", help=help)
    if inspect.isabstract(found):
        missing = ", ".join(f"`{method}`" for method in sorted(found.__abstractmethods__))
        raise failed("BN902", f"`{name}` is abstract: it does not define {missing}")
    _check_arguments(found, target)
    try:
        model = found(*target.args, **target.kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        if meta and "meta" in str(error).lower():
            raise failed(
                "BN902", f"`{target.text}` cannot be built with --meta: {said(error)}", error, help=_NO_META
            ) from error
        what = "exits the program" if isinstance(error, SystemExit) else f"raises {said(error)}"
        help = "call `super().__init__()` first in `__init__`" if "before Module.__init__()" in str(error) else ""
        raise failed("BN902", f"building `{target.text}` {what}", error, help=help) from error
    if not isinstance(model, nn.Module):
        help = "return the model, and nothing but the model"
        raise failed("BN902", f"`{name}` returned {_a(type(model).__name__)}, not an nn.Module", help=help)
    return model


def _check_arguments(found: Callable[..., Any], target: Target) -> None:
    """Says which arguments are missing or unknown before Python does, in the target's own words."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    parameters = signature.parameters
    variadic = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in target.kwargs if key not in parameters and not variadic]
    if unknown:
        near = difflib.get_close_matches(unknown[0], parameters, n=1)
        help = f"did you mean `{near[0]}`?" if near else f"its parameters are: {', '.join(parameters) or 'none'}"
        raise failed("BN902", f"`{target.attribute}` has no parameter `{unknown[0]}`", help=help)
    try:
        given = signature.bind_partial(*target.args, **target.kwargs).arguments
    except TypeError as error:
        message = f"`{target.attribute}` cannot be called with these arguments: {error}"
        raise failed("BN902", message, help=f"its signature is {target.attribute}{signature}") from error
    missing = [name for name in _required(signature) if name not in given]
    if missing:
        words = [repr(value) for value in target.args] + [f"{key}={value!r}" for key, value in target.kwargs.items()]
        words += [f"{name}=…" for name in missing]
        help = f"write `{target.place}:{target.attribute}({', '.join(words)})`; {_FUNCTION_INSTEAD}"
        raise failed("BN902", f"`{target.attribute}` needs arguments: {', '.join(missing)}", help=help)


def _required(signature: inspect.Signature) -> list[str]:
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind not in free]


def _own_classes(module: ModuleType) -> dict[str, type[nn.Module]]:
    """The module classes that the file itself defines, in its order, each under one name."""
    found: dict[type[nn.Module], str] = {}
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__:
            found.setdefault(value, name)
    return {name: cls for cls, name in found.items()}


def _names(module: ModuleType) -> list[str]:
    """What a target could name: the file's module classes, whatever else it defines, then models it has from others."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = [name for name, value in public.items() if attribute(value, "__module__") == module.__name__]
    models = [name for name, value in public.items() if isinstance(value, nn.Module) or _is_model_class(value)]
    return list(dict.fromkeys([*_own_classes(module), *own, *models]))


def _is_model_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and not value.__module__.startswith("torch.")


def _unbuildable(cls: type[nn.Module], module: ModuleType) -> str | None:
    if inspect.isabstract(cls):
        return "abstract"
    if cls.forward is nn.Module.forward:
        return "forward not defined"
    try:
        missing = _required(inspect.signature(cls))
    except (TypeError, ValueError):
        return None
    if not missing:
        return None
    reason = f"needs arguments: {', '.join(missing)}"
    factories = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and cls.__name__ in value.__code__.co_names
        and value.__module__ == module.__name__
        and not _required(inspect.signature(value))
    ]
    return f"{reason}; `{factories[0]}` builds one" if factories else reason


def _base_only(cls: type, classes: dict[str, type[nn.Module]], error: BaseException) -> str | None:
    """A class that only its subclasses can be built of is left out; any other failure is for the check to report."""
    if isinstance(error, NotImplementedError):
        return "abstract"
    derived = [name for name, other in classes.items() if other is not cls and issubclass(other, cls)]
    return f"is the base of {derived[0]}" if derived else None


def _parts(model: nn.Module) -> set[type]:
    inside = [*model.modules(), *ModuleNames(model).unregistered.values()]
    return {type(module) for module in inside if module is not model}


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
