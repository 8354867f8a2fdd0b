"""The Python API: `check` and `assert_clean`. Nothing here prints or exits, and importing it does not import torch."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from bnlint.config import ConfigError, Settings, parse_size, selected_codes
from bnlint.job import Report, TargetReport
from bnlint.registry import load_rules
from bnlint.rule import Severity

if TYPE_CHECKING:
    import torch

    from bnlint.rule import Rule

Event = Callable[[str, str], None]


def _ignore(target: str, words: str) -> None:
    """Hears an event and does nothing."""


def check(
    model_or_target: torch.nn.Module | str | PathLike[str],
    inputs: Any = None,
    *,
    input_fn: str | None = None,
    batch_size: int | None = None,
    loss: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    mode: str = "train",
    timeout: float = 120.0,
    memory_limit: int | str | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    rule_paths: Iterable[str | PathLike[str]] = (),
    static: bool = False,
    isolate: bool = True,
) -> Report:
    """Checks a model, here, or a target such as `"path.py:Net"`, in a process of its own, and returns the report.

    `inputs` is a spec such as `"8x3x32x32"`, a list of specs, or, for a model, its arguments: a tensor, a tuple or a
    dict. `input_fn`, `timeout`, `memory_limit` and `isolate` concern only targets given as text. Everything else means
    what the option of `bnlint check` means.
    """
    specs = (inputs,) if isinstance(inputs, str) else tuple(inputs) if _all_text(inputs) else ()
    settings = Settings(
        inputs=specs,
        input_fn=input_fn,
        batch_size=batch_size,
        loss=loss,
        seed=seed,
        device=device,
        dtype=dtype,
        mode=mode,
        timeout=timeout,
        memory_limit=parse_size(memory_limit) if isinstance(memory_limit, str) else memory_limit,
        select=_texts(select),
        ignore=_texts(ignore),
        rule_paths=_texts(rule_paths),
        static=static,
        isolate=isolate,
    )
    if not isinstance(model_or_target, (str, PathLike)):
        return _check_module(model_or_target, settings, None if specs else inputs)
    if inputs is not None and not specs:
        raise TypeError("the inputs of a target given as text are specs such as '8x3x32x32', or use input_fn")
    skipped: list[str] = []
    target = fspath(model_or_target)
    report = check_targets([target], settings, on_skip=lambda name, reason: skipped.append(f"{name}: {reason}"))
    if not report.targets:
        raise ConfigError(f"there is no model to check in `{target}`" + "".join(f"; {row}" for row in skipped))
    return report


def assert_clean(model_or_target: Any, inputs: Any = None, *, fail_on: str = "warning", **options: Any) -> None:
    """Raises AssertionError with the text report unless `check` finds nothing at or above `fail_on`."""
    __tracebackhide__ = True  # pytest points at the caller
    threshold = Severity(fail_on)
    report = check(model_or_target, inputs, **options)
    if report.exit_code(threshold):
        raise AssertionError(f"bnlint found problems\n\n{report}")


def check_targets(
    targets: Sequence[str],
    settings: Settings,
    *,
    on_stage: Event = _ignore,
    on_skip: Event = _ignore,
) -> Report:
    """Checks every model the targets name, in their order.

    `on_stage` hears the target and the stage that begins, `on_skip` a class that is not checked and why.
    """
    from bnlint import target, worker

    rules, codes = _selection(settings)
    limits: dict[str, Any] = {
        "timeout": settings.timeout,
        "memory_limit": settings.memory_limit,
        "on_stage": on_stage,
        "isolate": settings.isolate,
    }
    rows: dict[str, TargetReport] = {}
    for text in target.expand(targets):
        on_stage(text, "start")
        try:
            names, skipped = _models(text, limits)
        except worker.TargetFailed as failure:
            rows[text], names, skipped = failure.report, [], []
        for name, reason in skipped:
            on_skip(f"{text}:{name}", reason)
        for name in names:
            if name not in rows:
                on_stage(name, "start")
                rows[name] = worker.check(settings.job(name, rules), **limits)
    return Report([_settled(row, codes) for row in rows.values()])


def _models(text: str, limits: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    """The targets in a file given without a name, and what it leaves out; any other target is itself."""
    from bnlint import target, worker

    parsed = target.parse(text)
    if parsed.path is None or parsed.attribute is not None or not parsed.path.is_file():
        return [text], []
    return worker.discover(parsed.path, **limits)


def _check_module(model: Any, settings: Settings, inputs: Any) -> Report:
    torch = sys.modules.get("torch")  # without it there is no module to be had
    if torch is None or not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module or a target such as 'path.py:Net', got {type(model).__name__}")
    from bnlint import audit

    rules, codes = _selection(settings)
    job = settings.job(type(model).__qualname__, rules)
    return Report([_settled(audit.audit_module(model, job, inputs), codes)])


def _selection(settings: Settings) -> tuple[list[str], frozenset[str]]:
    """The codes of the rules to run, and of everything that may be reported."""
    rules: dict[str, type[Rule]] = load_rules(settings.rule_paths)
    codes = selected_codes(rules, settings.select, settings.ignore)
    return [code for code in rules if code in codes], codes


def _settled(row: TargetReport, codes: Collection[str]) -> TargetReport:
    """The report with only what was selected, each finding knowing its target."""
    found = [dataclasses.replace(f, target=f.target or row.target) for f in row.findings if f.code in codes]
    return dataclasses.replace(row, findings=found)


def _all_text(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(row, str) for row in value)


def _texts(value: Iterable[str | PathLike[str]]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(fspath(row) for row in value)
