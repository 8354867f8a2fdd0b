"""A recording on fake tensors stays where the model is: a device that forward names is written down, not gone to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

_ACCELERATORS = ("cuda", "mps", "xpu", "hpu", "npu")


def home_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for the meta device, which fake tensors take for it."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "meta" else device


def call_at(home: torch.device, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a torch function with `home` in place of an accelerator that it names."""
    name = getattr(func, "__name__", "")
    if name in _ACCELERATORS and getattr(torch.Tensor, name, None) is func and home.type != name:
        return args[0].to(home)
    if name == "to":
        args = [home if _is_elsewhere(value, home) else value for value in args]
    if _is_elsewhere(kwargs.get("device"), home):
        kwargs = {**kwargs, "device": home}
    return func(*args, **kwargs)


def _is_elsewhere(value: Any, home: torch.device) -> bool:
    """True for the name of an accelerator that is not the home; a bare number names the current one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return home.type == "cpu"
    if not isinstance(value, (str, torch.device)):
        return False
    kind = str(value).partition(":")[0]
    return kind in _ACCELERATORS and kind != home.type
