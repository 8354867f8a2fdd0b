"""What `bnlint check` costs beside running the model once by hand, in wall time and peak memory.

For each size and kind of check, a bare script and `bnlint check` run in alternation, each in a fresh process:

- full check against: import torch, build the same ResNet-50, one forward and one backward pass on the same batch;
- static check against: import torch and build the same ResNet-50.

Printed are medians over the pairs and the median of the pairs' ratios. Memory is the peak resident size of the largest
process among the command and its children. Needs a POSIX system (`os.wait4`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("8x3x224x224", "2x3x64x64")
LIMITS = {"full": (1.5, 1.2), "static": (1.5, 1.2)}  # time, memory

BUILD = """
import sys
sys.path.insert(0, "examples")
import torch
from resnet50 import ResNet50
torch.manual_seed(0)
model = ResNet50()
"""
RUN = """
output = model(torch.randn({shape}))
(output * torch.randn_like(output)).sum().backward()
"""


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    seconds: float
    mebibytes: float


def main() -> None:
    """Measures, prints the table, and exits with 1 when a ratio is above its limit."""
    parser = argparse.ArgumentParser(description="The cost of bnlint check beside a bare forward and backward pass.")
    parser.add_argument("--repeats", type=int, default=5, help="pairs per row (default 5)")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="NxCxHxW", help=f"default {' '.join(SIZES)}")
    parser.add_argument("--checks", nargs="+", choices=list(LIMITS), default=list(LIMITS), help="default both")
    arguments = parser.parse_args()

    rows = []
    for size in arguments.sizes:
        for check in arguments.checks:
            pairs = measure(size, check, arguments.repeats)
            rows.append(summary(size, check, pairs))
    print(tabulate(rows, headers="keys", floatfmt=".2f", disable_numparse=[0]))
    sys.exit(int(any(row["verdict"] != "ok" for row in rows)))


def measure(size: str, check: str, repeats: int) -> list[tuple[Cost, Cost]]:
    """Pairs of a bare run and a check, which goes first alternating; one of each beforehand warms the file cache."""
    source = BUILD + (RUN.format(shape=size.replace("x", ", ")) if check == "full" else "")
    bare = [sys.executable, "-c", source]
    lint = [
        sys.executable,
        "-m",
        "bnlint",
        "check",
        "examples/resnet50.py:ResNet50",
        "--input",
        size,
        "--isolated",
        "--no-cache",
    ]
    lint += ["--static"] if check == "static" else []
    run(bare, accepted={0})
    run(lint, accepted={0, 1})
    pairs = []
    for index in range(repeats):
        if index % 2:
            second, first = run(lint, accepted={0, 1}), run(bare, accepted={0})
        else:
            first, second = run(bare, accepted={0}), run(lint, accepted={0, 1})
        pairs.append((first, second))
        print(f"{size} {check} {index + 1}/{repeats}", file=sys.stderr)
    return pairs


def run(command: list[str], accepted: set[int]) -> Cost:
    """Runs a command in the project's folder and returns its cost; ends the benchmark when it fails."""
    environment = {
        k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"
    }  # pip compiles what it installs
    started = perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        sys.exit(f"exit code {process.returncode} from: {' '.join(command)}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, the others kibibytes
    return Cost(seconds, usage.ru_maxrss / unit)


def summary(size: str, check: str, pairs: list[tuple[Cost, Cost]]) -> dict[str, object]:
    """One row of the table."""
    time_ratio = median(lint.seconds / bare.seconds for bare, lint in pairs)
    memory_ratio = median(lint.mebibytes / bare.mebibytes for bare, lint in pairs)
    time_limit, memory_limit = LIMITS[check]
    return {
        "batch": size,
        "check": check,
        "bare s": median(bare.seconds for bare, _ in pairs),
        "bnlint s": median(lint.seconds for _, lint in pairs),
        "time ratio": time_ratio,
        "bare MiB": round(median(bare.mebibytes for bare, _ in pairs)),
        "bnlint MiB": round(median(lint.mebibytes for _, lint in pairs)),
        "memory ratio": memory_ratio,
        "verdict": "ok" if time_ratio <= time_limit and memory_ratio <= memory_limit else "above the limit",
    }


if __name__ == "__main__":
    main()
