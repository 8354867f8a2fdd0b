"""Where the backward pass starts: a declared loss with made-up targets, else a random projection of every output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from bnlint.graph.nest import tensors
from bnlint.signal.device import ProbeError

_CLASSES = frozenset(("cross_entropy", "nll_loss"))
_PROBABILITIES = frozenset(("binary_cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss"))
_NUMBERS = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"))
_ALIASES = {
    "ce": "cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "bce": "binary_cross_entropy",
    "mse": "mse_loss",
    "l1": "l1_loss",
    "nll": "nll_loss",
}


@dataclass(frozen=True)
class Start:
    """What the backward pass starts from in words, and the numbers it starts at.

    `declared` is the name of the loss that the one number is, "" where the outputs are projected.
    """

    words: str
    tensors: list[torch.Tensor]
    declared: str = ""
    classes: int = 0  # that the loss chooses between
    real_targets: bool = False


@dataclass(frozen=True)
class InitialLoss:
    """What a declared loss was on the batch."""

    name: str
    value: float
    classes: int  # 0 for a loss that is not about classes
    real_targets: bool = False  # they came with the user's batch


class LossError(ProbeError):
    """Why there is nothing to start from; the message is one sentence for people."""


def gradients_of_outputs(
    output: Any, channels: Mapping[tuple[int, ...], int], loss: str | None, seed: int, targets: Any = None
) -> Start:
    """Where the pass starts.

    `channels` gives the axis of classes by an output's shape; `targets` are the batch's own, the first tensor of which
    the loss gets. A projection, unlike a sum, has a gradient behind a
    softmax, whose outputs add up to one.
    """
    found = [t for _, t in tensors(output) if t.dtype.is_floating_point and t.requires_grad and t.numel()]
    if not found:
        raise LossError("no output depends on a parameter that requires one")
    generator = torch.Generator(found[0].device).manual_seed(seed)
    name, words = _ALIASES.get(loss or "", loss or ""), "a random projection of every output"
    if name in _CLASSES | _PROBABILITIES | _NUMBERS:
        own = next((t for _, t in tensors(targets)), None)
        for target in (own, None) if own is not None else (None,):
            try:
                value, classes = _declared(name, found[0], channels.get(tuple(found[0].shape)), generator, target)
            except (RuntimeError, ValueError, IndexError, TypeError):
                continue
            whose = "random targets" if target is None else "the batch's targets"
            whose += ", as the batch's do not fit" if own is not None and target is None else ""
            return Start(f"{name} with {whose}", [value], name, classes, target is not None)
        words += f", because {name} does not fit the first one"
    return Start(words, [(t * (_like(torch.randn, t, generator) / t.numel() ** 0.5)).sum() for t in found])


def _declared(
    name: str, output: torch.Tensor, channel: int | None, generator: torch.Generator, target: torch.Tensor | None
) -> tuple[torch.Tensor, int]:
    """The loss, and how many classes it chooses between: 0 where it chooses none."""
    classes = 2 if name in _PROBABILITIES else 0
    function = getattr(functional, name)
    if name in _CLASSES:
        if output.ndim > 1:
            output = output.movedim(channel if channel is not None else 1, 1)
        shape = output.shape[:1] + output.shape[2:] if output.ndim > 1 else ()
        classes = output.shape[min(1, output.ndim - 1)]
        if target is None:
            target = torch.randint(classes, shape, generator=generator, device=output.device)
        elif not target.dtype.is_floating_point:
            target = target.long().reshape(shape)
    elif target is not None:
        target = target.to(output.dtype).reshape(output.shape)
    elif name in _NUMBERS:
        target = _like(torch.randn, output, generator)
    else:
        target = (_like(torch.rand, output, generator) > 0.5).to(output.dtype)
        target = target * 2 - 1 if name == "soft_margin_loss" else target
    value: torch.Tensor = function(output, target)
    return value, classes


def _like(make: Any, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    value: torch.Tensor = make(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
    return value
