"""Devices and dtypes by the names that people type."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from bnlint.graph.frames import Call, raised_at
from bnlint.graph.memory import out_of_memory

_UNSUPPORTED = re.compile(
    r"not implemented for|Could not run '|not (currently )?(implemented|supported)|does ?n.t support|does not support"
    r"|[Uu]nsupported|to have the same dtype|should be the same|expected scalar type|without overflow"
)


class ProbeError(Exception):
    """Why the probe cannot run, and the user's line where it stopped; the message is one sentence for people."""

    def __init__(self, message: str, call: Call | None = None) -> None:
        super().__init__(message)
        self.call = call


class OutOfMemory(ProbeError):
    """The batch does not fit."""


def find_device(text: str) -> torch.device:
    """The device a name stands for; `auto` is the accelerator where there is one. Raises ProbeError."""
    available = _available()
    if text == "auto":
        return torch.device(available[-1])
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in available or (device.index or 0) >= _count(device.type):
        raise ProbeError(f"device `{text}` is not available here; available: {', '.join(map(_listed, available))}")
    return device


def _count(kind: str) -> int:
    return int(getattr(torch, kind).device_count())


def _listed(kind: str) -> str:
    """The name of a device, with its numbers where there are several."""
    count = _count(kind)
    return ", ".join(f"{kind}:{i}" for i in range(count)) if count > 1 else kind


def _available() -> list[str]:
    """The device types of this machine, the accelerator last."""
    if hasattr(torch, "accelerator"):  # torch 2.6
        accelerator = torch.accelerator.current_accelerator()
        name = accelerator.type if accelerator is not None and torch.accelerator.is_available() else None
    else:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    return ["cpu", name] if name else ["cpu"]


def find_dtype(text: str | None) -> torch.dtype | None:
    """The dtype a name stands for. Raises ProbeError."""
    found = getattr(torch, text, None) if text else None
    if text and not isinstance(found, torch.dtype):
        raise ProbeError(f"`{text}` is no dtype; use float32, float16, bfloat16 or float64")
    return found


def casting(device: str, dtype: str | None) -> AbstractContextManager[object]:
    """`torch.autocast` to a dtype on a device, or nothing."""
    return torch.autocast(torch.device(device).type, find_dtype(dtype)) if dtype else nullcontext()


def release(device: str) -> None:
    """Gives back the memory of tensors that nothing refers to."""
    gc.collect()
    backend = getattr(torch, find_device(device).type, None)
    empty = getattr(backend, "empty_cache", None)
    if empty is not None:
        empty()


def is_unsupported(error: BaseException) -> bool:
    """True for what torch raises when an op has no kernel for a device or dtype, or a number does not fit the dtype."""
    if isinstance(error, NotImplementedError):
        return True
    return isinstance(error, (RuntimeError, TypeError, ValueError)) and bool(_UNSUPPORTED.search(str(error)))


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip().splitlines() or ["no message"])[0]


@contextmanager
def explained(doing: str, device: str) -> Iterator[None]:
    """Turns what a device, an allocator or an op raises into one sentence."""
    try:
        yield
    except ProbeError:
        raise
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            message = f"{doing} runs out of memory on `{device}`, even with a single sample"
            raise OutOfMemory(message, raised_at(error)) from None
        message = f"{doing} fails on `{device}`: {type(error).__name__}: {first_line(error)}"
        raise ProbeError(message, raised_at(error)) from None
