"""What the layers of `torch.nn` take, and tensors that fit it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bnlint.graph.names import attribute
from bnlint.graph.ops import Kind, module_kind
from bnlint.inputs.guess import LENGTH, Guess

_SIDES = {"signal": 64, "image": 32, "volume": 16}


@dataclass(frozen=True)
class Want:
    """What a layer takes: so many axes, one of them so long; or ids."""

    rank: int | None = None  # None: any from 2 on
    axis: int = -1
    size: int | None = None
    ladder: str = "sequence"
    ids: int | None = None
    batch: int = 0  # where the batch is among the axes
    why: str = ""

    @property
    def is_ids(self) -> bool:
        """True for an embedding."""
        return self.ids is not None


def want(module: nn.Module, path: str) -> Want | None:
    """What a layer of `torch.nn` takes; None when it takes anything."""
    why = f"first layer `{path}`"
    kind = module_kind(module)
    if isinstance(module, torch.jit.ScriptModule):
        return _scripted(module, why)
    if isinstance(module, nn.modules.conv._ConvNd):
        dims = len(module.kernel_size)
        transposed = kind is Kind.CONV_TRANSPOSE and dims == 2
        ladder = ("signal", "image", "volume")[dims - 1]
        return Want(dims + 2, 1, module.in_channels or 3, "latent" if transposed else ladder, why=why)
    if isinstance(module, nn.Linear):
        return Want(None, -1, module.in_features or 16, why=why)
    if isinstance(module, nn.Bilinear):
        return Want(None, -1, module.in1_features, why=why)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Want(2, ids=module.num_embeddings, why=why)
    if isinstance(module, nn.RNNBase):
        return Want(3, -1, module.input_size, batch=0 if module.batch_first else 1, why=why)
    if isinstance(module, nn.RNNCellBase):
        return Want(2, -1, module.input_size, why=why)
    attention = _attention(module)
    if attention is not None:
        return Want(3, -1, attention.embed_dim, batch=0 if attention.batch_first else 1, why=why)
    return _norm(module, why) if kind is Kind.NORM else None


def batch_first(module: nn.Module) -> bool:
    """Whether a recurrent, attention or transformer layer takes the batch in front."""
    attention = _attention(module)
    return bool(getattr(module if attention is None else attention, "batch_first", True))


def _scripted(module: torch.jit.ScriptModule, why: str) -> Want | None:
    """A scripted or traced layer has lost its class, but not its weight."""
    kernel, channels = attribute(module, "kernel_size"), attribute(module, "in_channels")
    if kernel and channels:
        return Want(len(kernel) + 2, 1, channels, ("signal", "image", "volume")[len(kernel) - 1], why=why)
    weight, name = attribute(module, "weight"), module.original_name
    if not isinstance(weight, torch.Tensor):
        return None
    if name == "Embedding":
        return Want(2, ids=weight.shape[0], why=why)
    if name in ("Conv1d", "Conv2d", "Conv3d"):  # traced, which keeps no sizes
        return Want(weight.ndim, 1, weight.shape[1], ("signal", "image", "volume")[weight.ndim - 3], why=why)
    return Want(None, -1, weight.shape[-1], why=why) if name == "Linear" else None


def _attention(module: nn.Module) -> nn.MultiheadAttention | None:
    if isinstance(module, nn.MultiheadAttention):
        return module
    if module_kind(module) is not Kind.TRANSFORMER:
        return None
    return next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)


def _norm(module: nn.Module, why: str) -> Want | None:
    name = type(module).__name__
    size = getattr(module, "num_features", None) or getattr(module, "num_channels", None)
    ranks = {"1d": (3 if "Instance" in name else 2), "2d": 4, "3d": 5}
    if name[-2:] in ranks:
        rank = ranks[name[-2:]]
        return Want(rank, 1, size or 3, {4: "image", 5: "volume"}.get(rank, "signal"), why=why)
    shape = getattr(module, "normalized_shape", None)
    if shape:
        return Want(None, -1, int(shape[-1]), why=why)
    return Want(None, 1, size, "image", why=why) if size else None


def guesses_for(wanted: Want, batch: int) -> list[Guess]:
    """Tensors that a layer takes, the likeliest first."""
    if wanted.is_ids:
        return [Guess((batch, LENGTH), "int64", wanted.ids, free=(1,), why=wanted.why)]
    size, why = wanted.size or 3, wanted.why
    if wanted.ladder == "latent":
        return [Guess((batch, size, side, side), known=(1,), why=why) for side in (1, 4, 8)]
    if wanted.axis == 1 and (wanted.rank or 4) > 2:
        rank = wanted.rank or 4
        free = tuple(range(2, rank))
        shape = (batch, size, *[_SIDES[wanted.ladder]] * (rank - 2))
        return [Guess(shape, free=free, known=(1,), ladder=wanted.ladder, why=why)]
    rows = Guess((batch, size), known=(1,), why=why)
    time = Guess((batch, LENGTH, size), free=(1,), known=(2,), why=why)
    swapped = Guess((LENGTH, batch, size), free=(0,), known=(2,), batch=1, why=why)
    if wanted.rank == 2:
        return [rows]
    if wanted.rank == 3:
        return [swapped, time] if wanted.batch else [time]
    return [rows, time]
