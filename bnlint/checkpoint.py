"""`--weights`: reads a state dict from a file, without running code from it, and puts it into the model."""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnlint.failure import BuildError, failed, said
from bnlint.rule import engine_finding

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights")
_BESIDE = ("model_ema", "ema", "params_ema", "ema_state_dict")  # taken when none of those is there
_OPTIONAL = "num_batches_tracked"  # files from before it existed do without
_DEPTH = 3  # wrappers, and prefixes, inside each other
_SHOWN = 8  # mismatches listed
_HELP = "save one with `torch.save(model.state_dict(), file)`"


def load_weights(model: nn.Module, path: str) -> str:
    """Fills the model from the file and says in a few words what was done; raises BuildError (BN902)."""
    tensors, words = _unwrapped(_read(Path(path)), path)
    wanted = model.state_dict()
    tensors, removed = _fitting(tensors, wanted.keys())
    problems = list(_mismatches(wanted, tensors))
    if problems:
        raise _unfit(path, problems)
    try:
        model.load_state_dict(tensors, strict=False, assign=any(p.is_meta for p in model.parameters()))
    except Exception as error:
        raise failed("BN902", f"the weights in `{path}` cannot be loaded: {said(error)}", error) from error
    words += [f"without the prefix `{removed}`"] if removed else []
    return ", ".join([f"{len(tensors)} tensors from `{path}`", *words])


def _read(path: Path) -> Any:
    shown = path.as_posix()
    if path.is_dir():
        raise failed("BN902", f"the weights `{shown}` are a folder", help="name a .pt, .pth or .safetensors file in it")
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [f.name for f in path.parent.glob("*")], n=1)
        help = f"did you mean `{path.with_name(near[0]).as_posix()}`?" if near else ""
        raise failed("BN902", f"the file of weights `{shown}` does not exist", help=help)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote, without running code of it; raises BuildError (BN902)."""
    shown = path.as_posix()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(shown, error) from error


def read_safetensors(path: Path) -> Any:
    """The tensors of a file by name; raises BuildError (BN902)."""
    shown = path.as_posix()
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        help = 'install it: `pip install "bnlint[safetensors]"`'
        raise failed("BN902", f"reading `{shown}` needs the package safetensors", help=help) from error
    try:
        return load_file(path)
    except Exception as error:
        raise failed("BN902", f"`{shown}` is damaged or is no safetensors file: {said(error)}") from error


def _unreadable(shown: str, error: Exception) -> BuildError:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)|(?:Trying to instantiate|[Cc]an only \w+) .*?`?([\w.]+\.[\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and found:
        name = found[1] or found[2]
        message = f"loading `{shown}` would run code of its own (`{name}`), which bnlint refuses"
        return failed("BN902", message, help=f"a state dict needs none: {_HELP}")
    if "TorchScript" in text:
        return failed("BN902", f"`{shown}` is a TorchScript program, not a state dict", help=_HELP)
    help = "load it once with torch and look, or copy it again"
    return failed("BN902", f"`{shown}` is damaged or was not written by `torch.save`", help=help)


def _unwrapped(content: Any, path: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors by name, and where in the file they were."""
    words: list[str] = []
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            kind = type(content).__name__
            raise failed("BN902", f"`{path}` holds a value of type {kind}, not a state dict", help=_HELP)
        key = next((k for k in (*_WRAPPERS, *_BESIDE) if isinstance(content.get(k), Mapping) and content[k]), None)
        if key is None:
            break
        content = content[key]
        words.append(f"found in `{key}`")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(f"`{key}`" for key in list(content)[:6])
        raise failed("BN902", f"`{path}` holds no tensors" + (f", only {keys}" if keys else ""), help=_HELP)
    return tensors, words


def _fitting(tensors: dict[str, torch.Tensor], wanted: Any) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors without a prefix of their names, such as `module.`, when more of the model's names match then."""
    best, removed = tensors, ""
    for prefix in _prefixes(tensors):
        rest = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if len(rest.keys() & wanted) > len(best.keys() & wanted):
            best, removed = rest, prefix
    return best, removed


def _prefixes(tensors: Mapping[str, Any]) -> list[str]:
    starts = {".".join(name.split(".")[:depth]) for name in tensors for depth in range(1, _DEPTH + 1) if "." in name}
    return sorted(f"{start}." for start in starts)


def _mismatches(wanted: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """One line for every tensor that is missing, of another shape, or too many."""
    left = [name for name in tensors if name not in wanted]
    for name, value in wanted.items():
        if name in tensors:
            here = getattr(value, "shape", None)
            if here is not None and not torch.nn.parameter.is_lazy(value) and tensors[name].shape != here:
                yield f"`{name}` is {_size(tensors[name])} in the file and {_size(value)} in the model"
        elif isinstance(value, torch.Tensor) and not name.endswith(_OPTIONAL):
            near = difflib.get_close_matches(name, left, n=1)
            if near:
                left.remove(near[0])
            yield f"`{name}` is missing" + (f"; the file has `{near[0]}`" if near else "")
    for name in left:
        yield f"`{name}` is in the file and not in the model"


def _unfit(path: str, problems: list[str]) -> BuildError:
    count = len(problems)
    more = [f"and {count - _SHOWN} more"] if count > _SHOWN else []
    what = problems[0] if count == 1 else f"{count} tensors differ"
    note = "\n".join([*problems[:_SHOWN], *more]) if count > 1 else ""
    help = "build the model with the arguments it was saved with, or name the file that belongs to it"
    return BuildError(engine_finding("BN902", f"`{path}` does not fit the model: {what}", help=help, note=note))


def _size(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
