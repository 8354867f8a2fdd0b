"""How the time of a static check grows with the depth of the model, and what recording costs beside a fake forward.

Each family of models is checked at three depths in turns: one block, `--depth` blocks and ten times as many. The first
two give the cost that does not depend on the depth; growth is what lies above it, ten times deeper by once: linear is
10, the limit is 11. Recording is compared with the same forward pass on the same fake tensors and nothing else, side by
side. All times are CPU time of this process. A round checks the two shallow models ten times for once the deep one, so
that what else the machine does weighs on them alike; figures are medians of the rounds.

`--calls` counts function calls in place of seconds: the same number on every run and every machine. `--meta` checks a
Llama of 70 billion parameters with `bnlint check --meta` in place of all this.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from time import process_time
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from deep import FAMILIES
from tabulate import tabulate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bnlint import audit
from bnlint.graph.fake import fake_state, to_fake
from bnlint.graph.record import record
from bnlint.graph.untouched import untouched
from bnlint.job import Job

GROWTH, RECORDING = 11.0, 3.0  # limits
META_SECONDS, META_MEMORY = 60.0, 2.0  # limits of --meta; memory in GiB


def main() -> None:
    """Measures, prints the table, and exits with 1 when a ratio is above its limit."""
    parser = argparse.ArgumentParser(description="How the time of a static check grows with the depth of the model.")
    parser.add_argument("--depth", type=int, default=40, help="blocks of the shallower model (default 40)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="default all")
    parser.add_argument("--stages", action="store_true", help="also the growth of every stage")
    parser.add_argument("--calls", action="store_true", help="count calls in place of seconds")
    parser.add_argument("--meta", action="store_true", help="a model of 70 billion parameters, with --meta")
    arguments = parser.parse_args()
    if arguments.meta:
        rows = [meta()]
    elif arguments.calls:
        rows = [counted(name, arguments.depth) for name in arguments.families]
    else:
        rows = [row(name, arguments.depth, arguments.repeats, arguments.stages) for name in arguments.families]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    sys.exit(int(any(found["verdict"] != "ok" for found in rows)))


def row(name: str, depth: int, repeats: int, stages: bool) -> dict[str, object]:
    """One family's line of the table."""
    make, spec = FAMILIES[name]
    depths = (1, depth, 10 * depth)
    models = {d: make(d) for d in depths}
    ops = check(models[10 * depth], spec)[1]  # imports, caches
    rounds = [round_of(models, spec) for _ in range(repeats)]
    recording = median(recording_ratio(models[depth], spec) for _ in range(repeats))
    growth = median(grown(found["total"]) for found in rounds)
    found: dict[str, object] = {
        "family": name,
        "ops": ops,
        **{f"{d} block{'s'[: d > 1]} s": median(found["total"][d] for found in rounds) for d in depths},
        "growth": growth,
        "recording": recording,
        "verdict": "ok" if growth <= GROWTH and recording <= RECORDING else "above the limit",
    }
    if stages:
        found |= {stage: median(grown(found[stage]) for found in rounds) for stage in ("trace", "rules")}
    return found


def round_of(models: dict[int, nn.Module], spec: str) -> dict[str, dict[int, float]]:
    """Mean seconds by stage and depth; the deepest model is checked once and the others ten times."""
    found: dict[str, dict[int, float]] = {}
    for depth, model in models.items():
        times = [check(model, spec)[0] for _ in range(1 if depth == max(models) else 10)]
        for stage in times[0]:
            found.setdefault(stage, {})[depth] = fmean(seconds[stage] for seconds in times)
    return found


def grown(cost: dict[int, float]) -> float:
    """How many times what one block, some and ten times as many cost grows, above what does not depend on them."""
    one, depth, deep = cost
    fixed = cost[one] - (cost[depth] - cost[one]) / (depth - one)
    return (cost[deep] - fixed) / (cost[depth] - fixed)


def counted(name: str, depth: int) -> dict[str, object]:
    """One family's line of the table of calls: the growth of all, and of the stages and rules that cost a hundredth."""
    make, spec = FAMILIES[name]
    check(make(1), spec)  # imports, caches
    calls = {d: calls_of(make(d), spec) for d in (1, depth, 10 * depth)}
    total = {d: float(sum(found.values())) for d, found in calls.items()}
    most = sorted(calls[10 * depth].items(), key=lambda row: -row[1])
    parts = [
        (part, grown({d: float(found[part]) for d, found in calls.items()}))
        for part, count in most
        if count > total[10 * depth] / 100 and calls[depth][part] > calls[1][part]
    ]
    growth = grown(total)
    return {
        "family": name,
        "calls": int(total[10 * depth]),
        "growth": growth,
        "verdict": "ok" if growth <= GROWTH else "above the limit",
        "by part": ", ".join(f"{part} {each:.1f}" for part, each in parts if abs(each - 10) >= 0.1),
    }


def calls_of(model: nn.Module, spec: str) -> Counter[str]:
    """How many functions a static check calls, by stage and rule."""
    found: Counter[str] = Counter()
    part = ["rest"]

    def count(_: object, event: str, __: object) -> None:
        found[part[-1]] += event in ("call", "c_call")

    def within(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        part.append(name)
        try:
            return work(*arguments)
        finally:
            part.pop()

    def run_rule(run: Any, rule: Any, audited: Any) -> None:
        within(rule.code, check_rule, run, rule, audited)

    def run_trace(run: Any, audited: Any, given: Any) -> None:
        within("trace", trace, run, audited, given)

    check_rule, trace = audit._Run._check, audit._Run._trace
    with mock.patch.object(audit._Run, "_check", run_rule), mock.patch.object(audit._Run, "_trace", run_trace):
        sys.setprofile(count)
        try:
            audit.audit_module(model, Job("model", inputs=(spec,), static=True))
        finally:
            sys.setprofile(None)
    return found


def meta() -> dict[str, object]:
    """A Llama of 70 billion parameters, checked by a command of its own."""
    import resource

    command = [sys.executable, "-m", "bnlint", "check", f"{Path(__file__).with_name('llama.py')}:Llama", "--meta"]
    command += ["--no-cache", "--isolated", "--output-format", "json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    (target,) = json.loads(done.stdout)["targets"]
    memory = used.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return {
        "parameters": target["parameters"],
        "ops": target["ops"],
        "s": seconds,
        "CPU s": used.ru_utime + used.ru_stime,
        "GiB": memory,
        "verdict": "ok" if seconds <= META_SECONDS and memory <= META_MEMORY else "above the limit",
    }


def check(model: nn.Module, spec: str) -> tuple[dict[str, float], int]:
    """Seconds of a static check, by stage and in all, and ops."""
    gc.collect()
    started = process_time()
    report = audit.audit_module(model, Job("model", inputs=(spec,), static=True))
    return report.seconds | {"total": process_time() - started}, report.ops


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
