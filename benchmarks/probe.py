"""What the probe costs beside the forward and backward pass that it measures, in time and peak memory.

Time: a bare pass and a probed one take turns in one process, after one of each to warm up; printed are medians, the
median of the pairs' ratios in wall time, and that in processor time, which other programs disturb less. Memory: the
peak resident size of a fresh process that does one or the other; on a GPU what was allocated there.
Needs a POSIX system (`resource`). Exits with 1 when a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tabulate import tabulate
from torch import nn

from bnlint.collector import rare_collections
from bnlint.graph.model import Graph
from bnlint.graph.record import record
from bnlint.graph.untouched import training_mode, untouched
from bnlint.inputs.values import Inputs
from bnlint.signal.probe import probe

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"cpu": (1.3, 1.1), "cuda": (1.2, 1.05)}  # wall time, memory


class Block(nn.Module):
    """A transformer block with pre-norms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Causal attention, then the feed-forward layers."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A language model of twelve layers."""

    def __init__(self, words: int = 16384, width: int = 512, length: int = 256, depth: int = 12) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, width // 64) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of the next token at every position."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def resnet50(images: int) -> tuple[nn.Module, torch.Tensor]:
    """The ResNet-50 of the examples and a batch of images."""
    sys.path.insert(0, str(ROOT / "examples"))
    from resnet50 import ResNet50

    return ResNet50(), torch.randn(images, 3, 224, 224)


def gpt(**sizes: int) -> tuple[nn.Module, torch.Tensor]:
    """A transformer and a batch of eight texts of 256 tokens."""
    model = GPT(**sizes)
    return model, torch.randint(model.tokens.num_embeddings, (8, 256))


MODELS: dict[str, dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]] = {
    "cpu": {"resnet50": partial(resnet50, 8), "gpt": gpt},
    "cuda": {
        "resnet50": partial(resnet50, 64),
        "gpt": lambda: bfloat16(*gpt(words=32768, width=2048, depth=18)),  # 1.04 billion parameters
    },
}


def bfloat16(model: nn.Module, batch: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    """The model in half precision."""
    return model.bfloat16(), batch


def main() -> None:
    """Measures, prints the table, and exits with 1 when a ratio is above its limit."""
    parser = argparse.ArgumentParser(description="The cost of the probe beside a bare forward and backward pass.")
    parser.add_argument("--models", nargs="+", choices=("resnet50", "gpt"), default=("resnet50", "gpt"))
    parser.add_argument("--repeats", type=int, default=5, help="pairs per model (default 5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--once", choices=("bare", "probed"), help="one run of one model; prints its peak in MiB")
    arguments = parser.parse_args()
    if arguments.once:
        bare, probed = runs(arguments.models[0], arguments.device)
        (bare if arguments.once == "bare" else probed)()
        print(peak(arguments.device))
        return
    # first, as a process takes its parent's peak over
    peaks = {name: {how: once(name, arguments.device, how) for how in ("bare", "probed")} for name in arguments.models}
    rows = [row(name, arguments.device, arguments.repeats, peaks[name]) for name in arguments.models]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    time, memory = LIMITS[kind(arguments.device)]
    sys.exit(int(any(row["wall ratio"] > time or row["memory ratio"] > memory for row in rows)))


def kind(device: str) -> str:
    """The part of `MODELS` and `LIMITS` that a device takes."""
    return "cuda" if device.startswith("cuda") else "cpu"


def runs(name: str, device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The bare pass and the probed one, of the same model on the same batch."""
    torch.manual_seed(0)
    model, batch = MODELS[kind(device)][name]()
    model.to(device)
    with untouched(model):
        graph = Graph(record(model, (batch.to(device),)), model)

    def bare() -> None:
        output = model(batch.to(device))
        output.backward(torch.randn_like(output) / output.numel() ** 0.5)
        model.zero_grad()
        wait(device)

    given = Inputs((batch,), {}, [{"name": "x", "from": "a benchmark"}], batch_size=len(batch), batch_axes=[0])

    def probed() -> None:
        with rare_collections(), untouched(model, values=True), training_mode(model, True):
            facts = probe(model, given, graph, device=device)
        assert facts.backward, facts.notes
        wait(device)

    return bare, probed


def row(name: str, device: str, repeats: int, memory: dict[str, float]) -> dict[str, float | str]:
    """One row of the table."""
    bare, probed = runs(name, device)
    seconds(bare), seconds(probed)
    pairs = [(seconds(bare), seconds(probed)) for _ in range(repeats)]
    wall, processor = ([(one[i], other[i]) for one, other in pairs] for i in (0, 1))
    return {
        "model": name,
        "bare s": median(one for one, _ in wall),
        "probed s": median(other for _, other in wall),
        "wall ratio": median(other / one for one, other in wall),
        "CPU time ratio": median(other / one for one, other in processor),
        "bare MiB": memory["bare"],
        "probed MiB": memory["probed"],
        "memory ratio": memory["probed"] / memory["bare"],
    }


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """How long one run takes, and how long the processor works."""
    started, worked = perf_counter(), process_time()
    run()
    return perf_counter() - started, process_time() - worked


def once(name: str, device: str, how: str) -> float:
    """The peak memory of a process that makes one run."""
    command = [sys.executable, __file__, "--models", name, "--device", device, "--once", how]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def peak(device: str) -> float:
    """The most memory in use so far, in MiB."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, the others kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def wait(device: str) -> None:
    """Waits for a device that works behind the program's back."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
