"""How many public models `bnlint check --static` follows, and how many without being told an input.

Builds models with random weights, checks each in a process of its own with a time limit, and writes a Markdown table.
The processes are forked from one that has loaded torch and the packages, so this needs Linux or macOS. Results are kept
in a file, so that a long run can be made in parts; the table is made of all that are in it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from corpora import PACKAGES, Case, Missing, of_package, of_repositories  # noqa: E402
from coverage_table import Row, table  # noqa: E402

from bnlint.job import Job, TargetReport  # noqa: E402

PATIENCE = 10  # times the limit, after which a process is stopped whatever it does
_CONTEXT = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


def main() -> None:
    """Checks the chosen models, updates the results and writes the table."""
    arguments = _parsed()
    cases, missing = _cases(arguments)
    for reason in missing:
        print(f"skipped {reason}")
    rows = _read(arguments.results)
    done = {(row.corpus, row.name) for row in rows if row.status == "ok"} if arguments.resume else set()
    todo = [case for case in cases if (case.corpus, case.name) not in done]
    _warm_up()
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs, mp_context=_CONTEXT) as pool:
        for count, row in enumerate(pool.map(partial(one, limit=arguments.timeout), todo), 1):
            rows = [r for r in rows if (r.corpus, r.name) != (row.corpus, row.name)] + [row]
            if row.status != "ok":
                print(f"{row.corpus} {row.name}: {row.status}: {row.reason}"[:200], flush=True)
            _write(arguments.results, rows)
            if count % 20 == 0 or count == len(todo):
                print(f"{count} of {len(todo)} in {time.monotonic() - started:.0f} s", flush=True)
    if arguments.output:
        arguments.output.write_text(table(rows, missing, arguments.note), encoding="utf-8")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How many public models bnlint check --static follows.")
    parser.add_argument("--corpus", action="append", choices=[*PACKAGES, "repositories"], help="default: all")
    parser.add_argument("--all", action="store_true", help="every model of timm, not one of every family")
    parser.add_argument("--match", default="", help="only models whose name contains this")
    parser.add_argument("--step", type=int, default=1, help="only every n-th model")
    parser.add_argument("--offset", type=int, default=0, help="the first of those")
    parser.add_argument("--repositories", type=Path, metavar="FOLDER", help="holds the checkouts, as owner__name")
    parser.add_argument("--list", type=Path, default=ROOT / "benchmarks" / "repositories.json", help="what is in them")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds of processor time (default 120)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "coverage.json", help="kept there")
    parser.add_argument("--resume", action="store_true", help="leave out what is ok in the results")
    parser.add_argument("-o", "--output", type=Path, help="write the table to this file")
    parser.add_argument("--note", default="", help="a sentence for the page: that it is a sample, say")
    return parser.parse_args()


def _cases(arguments: argparse.Namespace) -> tuple[list[Case], list[str]]:
    """The chosen models, and which corpora are not on this machine."""
    sources: dict[str, Callable[[], list[Case] | Missing]] = {
        name: partial(of_package, name, everything=arguments.all) for name in PACKAGES
    }
    sources["repositories"] = partial(of_repositories, arguments.list, arguments.repositories or Path("checkouts"))
    cases, missing = [], []
    for name in arguments.corpus or sources:
        found = sources[name]()
        if isinstance(found, Missing):
            missing.append(str(found))
        else:
            cases += [case for case in found if arguments.match in case.name][arguments.offset :: arguments.step]
    return cases, missing


def _warm_up() -> None:
    """Loads what every check needs, before the processes are forked."""
    import torch

    from bnlint.registry import load_rules

    torch.set_num_threads(1)  # a fork has no threads, and OpenMP would wait for them
    for name in ("torch._dynamo", "torch.fx.experimental.symbolic_shapes", "bnlint.audit", "bnlint.inputs"):
        importlib.import_module(name)
    load_rules()


def one(case: Case, limit: float) -> Row:
    """The line of a model, which is made once, before the processes that check it are forked."""
    if case.prepare is None:
        return _checked(case, limit)
    found, seconds = _apart(partial(_prepared, case, limit), limit, case, waits=4)
    return found if isinstance(found, Row) else _row(case, found, told=False, seconds=seconds)


def _prepared(case: Case, limit: float) -> Row:
    assert case.prepare is not None
    with contextlib.suppress(Exception):  # the check says what making it raises
        case.prepare()
    return _checked(case, limit)


def _checked(case: Case, limit: float) -> Row:
    """Checks a model: without an input, else with the one written down, else says whether it runs at all."""
    report, seconds = _apart(partial(_check, case, told=False), limit, case)
    told = False
    if report.status != "ok" and case.has_input:
        second, more = _apart(partial(_check, case, told=True), limit, case)
        if second.status == "ok" or report.status == "failed":
            report, seconds, told = second, seconds + more, True
    row = _row(case, report, told=told, seconds=seconds)
    if row.status in ("partial", "failed") and case.has_input:
        error, _ = _apart(partial(_eager, case), limit, case)
        if error:
            return dataclasses.replace(row, status="not runnable", reason=_without_folders(str(error)))
    return row


def _apart(work: Callable[[], Any], limit: float, case: Case, waits: int = 1) -> tuple[Any, float]:
    """What `work` returns in a fork of this process, and its seconds; a failed report when it crashes or is late.

    The limit is on processor time, so that a busy machine does not change the result; a process that sleeps ends too,
    after as many times longer as it `waits` for processes of its own.
    """
    assert _CONTEXT is not None
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_in_child, args=(work, theirs, case, limit))
    process.start()
    theirs.close()
    late = TargetReport(case.target, "timeout", notes=[f"stopped after {limit:g} s"])
    try:
        return mine.recv() if mine.poll(PATIENCE * waits * limit) else (late, limit)
    except EOFError:
        process.join()
        if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
            return late, limit
        return TargetReport(case.target, "crash", notes=[f"the process ended with {process.exitcode}"]), 0.0
    finally:
        process.kill()
        process.join()


def _in_child(work: Callable[[], Any], pipe: Any, case: Case, limit: float) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    os.chdir(case.folder)
    sys.path.insert(0, case.folder)
    pipe.send((work(), time.process_time()))
    pipe.close()
    os._exit(0)


def _job(case: Case, told: bool) -> Job:
    given = {"inputs": case.inputs, "input_fn": case.input_fn} if told else {}
    return Job(case.target, static=True, **given)


def _check(case: Case, *, told: bool) -> TargetReport:
    from bnlint.worker import check

    return check(_job(case, told), isolate=False)


def _eager(case: Case) -> str | None:
    """Why the model does not run by itself on the input written down, neither to train nor else; None when it does."""
    return _error_in(case, train=True) and _error_in(case, train=False)


def _error_in(case: Case, *, train: bool) -> str | None:
    import torch

    from bnlint.build import build
    from bnlint.failure import said
    from bnlint.inputs import resolve
    from bnlint.target import parse

    try:
        built = build(parse(case.target))
        given = resolve(built.model, _job(case, told=True), built.module)
        with torch.no_grad():
            built.model.train(train)(*given.args, **given.kwargs)
    except BaseException as error:
        return said(error)
    return None


def _row(case: Case, report: TargetReport, *, told: bool, seconds: float) -> Row:
    """A line of the table."""
    sources = sorted({str(row["from"]).partition(":")[0] for row in report.input})
    engine = [f for f in report.findings if f.code.startswith("BN9") and f.code != "BN904"]
    reason = (
        "; ".join([*(f"{f.code} {f.message}" for f in engine[:1]), *report.notes])
        if engine
        else "; ".join(report.notes)
    )
    if report.status == "partial" and not reason:
        reason = next((f"{f.code} {f.message}" for f in report.findings), "the forward pass does not run")
    return Row(
        case.corpus,
        case.name,
        _status(report),
        report.ops,
        round(seconds, 1),
        "given" if told else " and ".join(sources),
        _without_folders(" ".join(reason.split()))[:300],
    )


def _without_folders(text: str) -> str:
    """Paths from the package or checkout on: where these are differs."""
    return re.sub(r"[^\s`]*/site-packages/", "", text).replace(f"{ROOT}/", "")


def _status(report: TargetReport) -> str:
    codes = {finding.code for finding in report.findings}
    if codes & {"BN901", "BN902"}:
        return "not built"
    return "crash" if codes & {"BN906", "BN909"} else "timeout" if "BN905" in codes else report.status


def _read(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def _write(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
