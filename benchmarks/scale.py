"""How the time of a static check grows with the depth of the model, and what recording costs beside a fake forward.

Each family of models is checked at three depths in turns: one block, `--depth` blocks and ten times as many. Growth is
the time above that of one block, ten times deeper by once: linear is 10, the limit is 11. Recording is compared with
the same forward pass on the same fake tensors and nothing else, side by side. All times are CPU time of this process
and the least of the repeats, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from bnlint import audit
from bnlint.graph.fake import fake_state, to_fake
from bnlint.graph.record import record
from bnlint.graph.untouched import untouched
from bnlint.job import Job

GROWTH, RECORDING = 11.0, 3.0  # limits
WIDTH = 16


def plain(depth: int) -> nn.Module:
    """Linear, BatchNorm, ReLU, one after the other."""
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())))


def linear_only(depth: int) -> nn.Module:
    """Linear on Linear: a finding on every layer."""
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4 * depth)))


def mismatched(depth: int) -> nn.Module:
    """Every other layer takes a size that it does not get."""
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(16, 16), nn.ReLU(), nn.Linear(24, 16))))


class Residual(nn.Module):
    """A ResNet's basic blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH),
            ) for _ in range(depth)
        )  # fmt: skip
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = functional.relu(x + block(x))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A small GPT."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Attention(nn.Module):
    """Sequence-first torch.nn attention in a residual trunk."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(8, 1, WIDTH))
        self.layers = nn.ModuleList(nn.MultiheadAttention(WIDTH, 2) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + layer(x, x, x, need_weights=False)[0])
        return self.head(x.mean(0))


class Gated(nn.Module):
    """Squeeze-and-excitation on the trunk itself, and activations in place."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.maps, self.gates, strict=True):
            x = x + self.act(layer(x))
            x = x * torch.sigmoid(gate(x.mean((2, 3))))[:, :, None, None]
        return x.mean((2, 3))


class Unrolled(nn.Module):
    """A recurrence written by hand, one step after the other."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.read, self.step, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], WIDTH)
        for _ in range(self.depth):
            state = torch.tanh(self.read(x) + self.step(state))
        return self.head(state)


class Collected(nn.Module):
    """Every step's state kept and joined at the end."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth, self.cell, self.head = depth, nn.GRUCell(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], WIDTH)
        states = []
        for _ in range(self.depth):
            state = self.cell(x, state)
            states.append(state)
        return self.head(torch.stack(states, 1))


FAMILIES: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "plain": (plain, "8x16"),
    "linear only": (linear_only, "8x16"),
    "mismatched": (mismatched, "8x16"),
    "residual": (Residual, "4x3x8x8"),
    "transformer": (Transformer, "int64[4,8]<50"),
    "attention": (Attention, "8x4x16"),
    "gated": (Gated, "4x16x8x8"),
    "unrolled": (Unrolled, "8x16"),
    "collected": (Collected, "8x16"),
}


def main() -> None:
    """Measures, prints the table, and exits with 1 when a ratio is above its limit."""
    parser = argparse.ArgumentParser(description="How the time of a static check grows with the depth of the model.")
    parser.add_argument("--depth", type=int, default=40, help="blocks of the shallower model (default 40)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the fastest counts (default 3)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="default all")
    parser.add_argument("--stages", action="store_true", help="also the growth of every stage")
    arguments = parser.parse_args()
    rows = [row(name, arguments.depth, arguments.repeats, arguments.stages) for name in arguments.families]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    sys.exit(int(any(found["verdict"] != "ok" for found in rows)))


def row(name: str, depth: int, repeats: int, stages: bool) -> dict[str, object]:
    """One family's line of the table."""
    make, spec = FAMILIES[name]
    depths = (1, depth, 10 * depth)
    models = {d: make(d) for d in depths}
    check(models[1], spec)  # imports, caches
    runs = {d: [] for d in depths}
    ratios = []
    for _ in range(repeats):
        for d in depths:
            runs[d].append(check(models[d], spec))
        ratios.append(recording_ratio(models[depth], spec))
    best = {d: min(total for total, _, _ in runs[d]) for d in depths}
    growth = (best[10 * depth] - best[1]) / (best[depth] - best[1])
    found: dict[str, object] = {
        "family": name,
        "ops": runs[10 * depth][0][2],
        "1 block s": best[1],
        f"{depth} s": best[depth],
        f"{10 * depth} s": best[10 * depth],
        "growth": growth,
        "recording": min(ratios),
        "verdict": "ok" if growth <= GROWTH and min(ratios) <= RECORDING else "above the limit",
    }
    if stages:
        for stage in ("trace", "rules"):
            least = {d: min(seconds[stage] for _, seconds, _ in runs[d]) for d in depths}
            found[stage] = (least[10 * depth] - least[1]) / (least[depth] - least[1])
    return found


def check(model: nn.Module, spec: str) -> tuple[float, dict[str, float], int]:
    """Seconds of a static check, seconds by stage, and ops."""
    gc.collect()
    started = process_time()
    report = audit.audit_module(model, Job("model", inputs=(spec,), static=True))
    return process_time() - started, report.seconds, report.ops


def recording_ratio(model: nn.Module, spec: str) -> float:
    """The time of a recording over that of the same forward pass on the same fake tensors."""
    x = torch.zeros(4, 8, dtype=torch.long) if spec.startswith("int") else torch.zeros(*map(int, spec.split("x")))
    if record(model, (x,)).errors:
        return 0.0  # the bare forward pass would stop at the first
    gc.collect()
    started = process_time()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with untouched(model), fake_state(model, mode), mode:
        model(to_fake(mode, x))
    bare = process_time() - started
    started = process_time()
    with untouched(model):
        record(model, (x,))
    return (process_time() - started) / bare


if __name__ == "__main__":
    main()
