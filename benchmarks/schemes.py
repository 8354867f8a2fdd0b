"""Measures how often `bnlint.signal.schemes.recognise` names the scheme that a weight was drawn from.

Run `python benchmarks/schemes.py [--seeds 10]`; prints the Markdown tables of docs/schemes.md.
"""

from __future__ import annotations

import argparse
import collections
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

from bnlint.signal.fans import fans_of
from bnlint.signal.schemes import Recognition, recognise

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear(8, 8)": lambda: nn.Linear(8, 8),
    "Linear(32, 10)": lambda: nn.Linear(32, 10),
    "Linear(64, 256)": lambda: nn.Linear(64, 256),
    "Linear(784, 512)": lambda: nn.Linear(784, 512),
    "Linear(4096, 1000)": lambda: nn.Linear(4096, 1000),
    "Conv2d(3, 64, 7)": lambda: nn.Conv2d(3, 64, 7),
    "Conv2d(64, 128, 3)": lambda: nn.Conv2d(64, 128, 3),
    "Conv2d(96, 96, 3, groups=96)": lambda: nn.Conv2d(96, 96, 3, groups=96),
    "Conv1d(64, 64, 5, groups=4)": lambda: nn.Conv1d(64, 64, 5, groups=4),
    "ConvTranspose2d(128, 64, 4, 2)": lambda: nn.ConvTranspose2d(128, 64, 4, 2),
}
SCHEMES: dict[str, tuple[str, Callable[[Tensor], object] | None]] = {
    "PyTorch default": ("PyTorch default", None),
    "Xavier uniform": ("Xavier uniform", init.xavier_uniform_),
    "Xavier normal": ("Xavier normal", init.xavier_normal_),
    "Xavier uniform, tanh": ("Xavier uniform (gain for tanh)", lambda w: init.xavier_uniform_(w, 5 / 3)),
    "He uniform": ("He uniform", lambda w: init.kaiming_uniform_(w, nonlinearity="relu")),
    "He normal": ("He normal", lambda w: init.kaiming_normal_(w, nonlinearity="relu")),
    "He normal, fan_out": (
        "He normal (fan_out)",
        lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
    ),
    "LeCun normal": ("LeCun normal", lambda w: init.kaiming_normal_(w, nonlinearity="linear")),
    "N(0, 0.01²)": ("N(0, 0.01²)", lambda w: init.normal_(w, 0, 0.01)),
    "N(0, 0.02²)": ("N(0, 0.02²)", lambda w: init.normal_(w, 0, 0.02)),
    "U(±0.05)": ("U(±0.05)", lambda w: init.uniform_(w, -0.05, 0.05)),
    "truncated N(0, 0.02²)": ("truncated N(0, 0.02²)", lambda w: init.trunc_normal_(w, 0, 0.02, -0.04, 0.04)),
    "orthogonal": ("orthogonal", init.orthogonal_),
    "zeros": ("zeros", init.zeros_),
    "constant 0.1": ("constant", lambda w: init.constant_(w, 0.1)),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dtypes", default="float32,bfloat16,float16")
    options = parser.parse_args()
    rows: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    seconds = []
    torch.manual_seed(0)
    for dtype in options.dtypes.split(","):
        for name, (label, fill) in SCHEMES.items():
            for layer, make in LAYERS.items():
                for seed in range(options.seeds):
                    module = make()
                    if fill is not None:
                        fill(module.weight.data)  # type: ignore[operator, arg-type, union-attr]
                    if dtype != "float32" and seed % 2 and fill is None:
                        module = module.to(getattr(torch, dtype))
                        module.reset_parameters()  # type: ignore[operator]
                    module = module.to(getattr(torch, dtype))
                    started = time.perf_counter()
                    found = recognise(module.weight, fans_of(module), module)  # type: ignore[arg-type]
                    seconds.append(time.perf_counter() - started)
                    assert found is not None
                    rows[name, dtype][_verdict(found, label)] += 1
                    rows[layer, "layers"][_verdict(found, label)] += 1
    for (name, group), counts in rows.items():
        total = sum(counts.values())
        cells = [f"{100 * counts[key] / total:.1f}" for key in ("first", "among", "missing", "unknown")]
        print(f"| {name} | {group} | {total} | {' | '.join(cells)} |")
    total_counts = sum((c for (_, group), c in rows.items() if group != "layers"), collections.Counter())
    print(dict(total_counts), f"median {1000 * sorted(seconds)[len(seconds) // 2]:.2f} ms")


def _verdict(found: Recognition, label: str) -> str:
    if found.law == label:
        return "first"
    if found.law == "unknown":
        return "unknown"
    labels = [scheme.label for scheme in found.schemes]
    if label not in labels:
        return "missing"
    return "first" if math.isclose(found.schemes[labels.index(label)].std, found.schemes[0].std) else "among"


if __name__ == "__main__":
    main()
