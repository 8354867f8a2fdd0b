"""Loops, branches, checkpointing, hooks, scripts, custom gradients, randomness and state in forward."""

from __future__ import annotations

import copy
import functools
import random
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .registry import call, conv_norm_relu, images, register


@register(lambda: call(images()), "branch on shape")
class BranchOnShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv_norm_relu(3, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.unsqueeze(0)
        if x.shape[-1] > 8 and x.size(2) % 2 == 0:
            x = F.avg_pool2d(x, 2)
        return self.head(self.body(x).mean((2, 3)))


@register(lambda: call(torch.randn(8, 12)), "data-dependent branch", ".item()")
class BranchOnData(nn.Module):
    """Clips an input that is out of range and scales by a number read with .item()."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.ReLU())
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x - x.mean()
        largest = x.abs().max().item()
        if largest > 10.0:
            x = x * (10.0 / largest)
        return self.head(self.body(x))


@register(lambda: call(torch.randn(16, 12)), "mixture of experts", "data-dependent sizes", "index_add")
class Experts(nn.Module):
    """Every row goes to its best expert, weighted by the router's probability."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(12, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12)) for _ in range(count)
        )
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight, choice = self.router(x).softmax(dim=-1).max(dim=-1)
        mixed = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero().squeeze(1)
            mixed.index_add_(0, rows, weight[rows, None] * expert(x[rows]))
        return self.head(self.norm(x + mixed))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


@register(lambda: call(torch.randn(8, 12)), "checkpoint", "loop in forward")
class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.blocks = nn.ModuleList(Residual(16) for _ in range(3))
        self.tail = nn.Sequential(Residual(16), nn.LayerNorm(16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
        return self.head(checkpoint_sequential(self.tail, 2, x, use_reentrant=False))


@register(lambda: call(torch.randn(8, 12)), "stochastic depth", "random")
class StochasticDepth(nn.Module):
    """Drops residual branches per sample by a tensor mask and one whole block by Python's random."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, branch in zip(self.norms, self.branches, strict=True):
            y = branch(norm(x))
            if self.training:
                y = y * 0.0 if random.random() < 0.05 else y
                y = y * x.new_empty(x.shape[0], 1).bernoulli_(0.9) / 0.9
            x = x + y
        return self.head(x)


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * gate * (1 + x * (1 - gate))


@register(lambda: call(torch.randn(8, 12)), "autograd.Function")
class CustomGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(12, 24), nn.LayerNorm(24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(SwishFunction.apply(self.norm(self.fc1(x))))


@register(lambda: call(torch.randn(8, 12)), "forward hook changes output", "forward pre-hook")
class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(12, 24), nn.LayerNorm(24), nn.Linear(48, 3)
        self.norm.register_forward_hook(self.concat_relu)
        self.fc1.register_forward_pre_hook(self.center)

    @staticmethod
    def concat_relu(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([output.relu(), (-output).relu()], dim=-1)

    @staticmethod
    def center(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] - args[0].mean(dim=-1, keepdim=True),)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.fc1(x)))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 24)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x))


@register(lambda: call(torch.randn(8, 12)), "jit.script")
class WithScript(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.body = torch.jit.script(Scripted())
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@register(lambda: call(torch.randn(8, 12)), "functools.partial forward")
class PartialForward(nn.Module):
    """A forward replaced on the instance, with an argument bound."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 24), nn.Linear(24, 3)
        self.forward = functools.partial(self.run, slope=0.1)

    def run(self, x: Tensor, slope: float) -> Tensor:
        return self.fc2(F.leaky_relu(self.fc1(x), slope))


@register(lambda: call(torch.randn(8, 12)), "buffers updated in forward", "no_grad")
class RunningCenter(nn.Module):
    """Keeps a running mean and a counter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("steps", torch.tensor(0))
        self.fc1, self.fc2 = nn.Linear(12, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.1)
                self.steps += 1
        return self.fc2(torch.relu(self.fc1(x - self.mean)))


@register(lambda: call(torch.randn(16, 12)), "momentum copy", "no_grad", "frozen parameters")
class MomentumTarget(nn.Module):
    """An online network predicts what its frozen copy says."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 8))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Sequential(nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = self.target(x)
        return self.predictor(self.online(x)), target


@register(lambda: call(torch.randn(8, 6)), "iteration", "fixed point", "state on self")
class Unrolled(nn.Module):
    """Iterates one shared cell to a near fixed point and remembers plain Python state."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.cell = nn.Linear(6, 16), nn.Linear(16, 16, bias=False)
        nn.init.orthogonal_(self.cell.weight, gain=0.8)
        self.head = nn.Linear(16, 2)
        self.iterations = 0

    def forward(self, x: Tensor) -> Tensor:
        injected = self.inject(x)
        state = torch.zeros_like(injected)
        self.iterations = 0
        while self.iterations < 4:
            state = torch.tanh(self.cell(state) + injected)
            self.iterations += 1
        return self.head(state)
