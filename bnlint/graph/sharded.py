"""Models sharded over processes by FSDP: these put their parameters together during a run and apart again after it."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def sharded(model: nn.Module) -> list[Any]:
    """The modules that FSDP manages, of either kind."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a model that is sharded has it loaded
    if fsdp is None:
        return []
    kinds = tuple(getattr(fsdp, name) for name in ("FullyShardedDataParallel", "FSDPModule") if hasattr(fsdp, name))
    return [module for module in model.modules() if isinstance(module, kinds)]


def put_apart(model: nn.Module) -> None:
    """Ends a run: parameters that stay whole after a forward pass, waiting for the backward, are sharded again."""
    for module in sharded(model):
        if hasattr(module, "reshard"):
            module.reshard()
