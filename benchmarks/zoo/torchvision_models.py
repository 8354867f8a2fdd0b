"""Every builder of torchvision with random weights: `torchvision_models.py:make('resnet18')`."""

from __future__ import annotations

import importlib
import inspect
import sys
from functools import cache
from typing import Any

import torch
from torch import nn

try:
    torchvision = importlib.import_module("torchvision")
except RuntimeError:  # its compiled operators do not load beside a CPU-only torch
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    torchvision = importlib.import_module("torchvision_stub").load()


def names() -> list[str]:
    """All but the quantized copies of other models."""
    return [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]


@cache
def make(name: str) -> nn.Module:
    """The model with random weights."""
    builder = torchvision.models.get_model_builder(name)
    has_backbone = "weights_backbone" in inspect.signature(builder).parameters
    options = {"weights_backbone": None} if has_backbone else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # their default, said aloud, so that they do not warn
    return builder(weights=None, **options)


def inputs(name: str) -> Any:
    """What a model of its kind takes: videos, pictures, or for detection a list of these and of targets."""
    if name in torchvision.models.list_models(module=torchvision.models.video):
        return torch.rand(2, 3, 16, 112, 112)
    if name in torchvision.models.list_models(module=torchvision.models.detection):
        target = {"boxes": torch.tensor([[8.0, 8.0, 96.0, 128.0]]), "labels": torch.tensor([1])}
        target |= {"masks": torch.ones(1, 224, 224, dtype=torch.uint8)} if "mask" in name else {}
        target |= {"keypoints": torch.ones(1, 17, 3)} if "keypoint" in name else {}
        return [torch.rand(3, 224, 224)] * 2, [target] * 2
    return torch.rand(2, 3, 224, 224)
