"""Devices and dtypes by the names that people type."""

from __future__ import annotations

import torch


class ProbeError(Exception):
    """Why the probe cannot run; the message is one sentence for people."""


def find_device(text: str) -> torch.device:
    """The device a name stands for; `auto` is the accelerator where there is one. Raises ProbeError."""
    available = _available()
    if text == "auto":
        return torch.device(available[-1])
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise ProbeError(f"device `{text}` is not available here; available: {', '.join(available)}")
    return device


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
