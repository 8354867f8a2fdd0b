"""The Python API: `check` and `assert_clean`. Nothing here prints or exits, and importing it does not import torch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnlint.cache import Cache, default_folder
from bnlint.config import Check, Chosen, ConfigError, Plan, Selection, Settings, choose, parse_size
from bnlint.interpreter import interpreter
from bnlint.job import Job, Report, TargetReport
from bnlint.registry import load_rules
from bnlint.rule import Severity
from bnlint.settle import Checked, settle

if TYPE_CHECKING:
    import torch

    from bnlint.baseline import Baseline

Event = Callable[[str, str], None]


def _ignore(target: str, words: str) -> None:
    """Hears an event and does nothing."""


def check(
    model_or_target: torch.nn.Module | str | PathLike[str],
    inputs: Any = None,
    *,
    input_fn: str | None = None,
    batch: str | None = None,
    batch_size: int | None = None,
    loss: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    autocast: str | None = None,
    compile: bool = False,
    mode: str = "train",
    weights: str | PathLike[str] | None = None,
    timeout: float = 120.0,
    memory_limit: int | str | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    rule_paths: Iterable[str | PathLike[str]] = (),
    preview: bool = False,
    meta: bool = False,
    static: bool = False,
    isolate: bool = True,
    cache: bool = True,
) -> Report:
    """Checks a model, here, or a target such as `"path.py:Net"`, in a process of its own, and returns the report.

    `inputs` is a spec such as `"8x3x32x32"`, a list of specs, or, for a model, its arguments: a tensor, a tuple or a
    dict. `weights`, `input_fn`, `batch`, `timeout`, `memory_limit`, `meta`, `isolate` and `cache` concern only targets
    given as text. Everything else means what the option of `bnlint check` means.
    """
    specs = (inputs,) if isinstance(inputs, str) else tuple(inputs) if _all_text(inputs) else ()
    settings = Settings(
        inputs=specs,
        input_fn=input_fn,
        batch=batch,
        batch_size=batch_size,
        loss=loss,
        seed=seed,
        device=device,
        dtype=dtype,
        autocast=autocast,
        compile=compile,
        mode=mode,
        weights=fspath(weights) if weights is not None else None,
        timeout=timeout,
        memory_limit=parse_size(memory_limit) if isinstance(memory_limit, str) else memory_limit,
        selections=(Selection(_texts(select) or None, ignore=_texts(ignore)),),
        preview=preview,
        rule_paths=_texts(rule_paths),
        meta=meta,
        static=static,
        isolate=isolate,
        cache=cache,
    )
    if not isinstance(model_or_target, (str, PathLike)):
        return _check_module(model_or_target, settings, None if specs else inputs)
    if inputs is not None and not specs:
        raise TypeError("the inputs of a target given as text are specs such as '8x3x32x32', or use input_fn")
    skipped: list[str] = []
    target = fspath(model_or_target)
    plan = Plan.of(settings)
    report = check_targets([target], plan, on_skip=lambda name, reason: skipped.append(f"{name}: {reason}"))
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
    plan: Plan,
    *,
    only: Sequence[Check] | None = None,
    known: Baseline | None = None,
    jobs: int | None = None,
    on_stage: Event = _ignore,
    on_skip: Event = _ignore,
) -> Report:
    """Checks every model the targets name, in their order; without targets what the plan has configured.

    `only` restricts the check to a part of that. Findings in the baseline `known` are silenced. As many as `jobs` are
    checked at once. `on_stage` hears the target and the stage that begins, `on_skip` a class that is not checked and
    why.
    """
    from bnlint import worker
    from bnlint.parallel import in_order, jobs_for

    rules = load_rules(plan.default.rule_paths)
    lock = threading.Lock()

    def hear(target: str, stage: str) -> None:
        with lock:
            on_stage(target, stage)

    def models(row: Check) -> tuple[list[Check], list[tuple[str, str]]] | TargetReport:
        hear(row.target, "start")
        try:
            return _models(row, plan, hear)
        except worker.TargetFailed as failure:
            return failure.report

    def checked(check: Check) -> Checked:
        hear(check.target, "start")
        return _checked(check, choose(rules, check.settings), hear)

    named = wanted(targets, plan) if only is None else list(only)
    rows: dict[str, Checked | None] = {}
    todo: dict[str, Check] = {}
    for row, found in zip(named, in_order(models, named, jobs_for((r.settings for r in named), jobs)), strict=True):
        if isinstance(found, TargetReport):
            rows[row.target] = Checked(found, choose(rules, row.settings))
            continue
        for name, reason in found[1]:
            on_skip(f"{row.target}:{name}", reason)
        for check in found[0]:
            if rows.setdefault(check.target) is None:
                todo.setdefault(check.target, check)
    checks = list(todo.values())
    done = in_order(checked, checks, jobs_for((check.settings for check in checks), jobs))
    rows.update(zip(todo, done, strict=True))
    whole = only is None and (not targets or not plan.configured)
    report = settle(
        [row for row in rows.values() if row is not None],
        rules,
        known,
        whole=whole,
        complete=only is None and not targets,
    )
    report.rule_paths = plan.default.rule_paths
    return report


def layers(text: str, plan: Plan, on_stage: Event = _ignore) -> TargetReport:
    """How every layer of one model starts out, and a function that would initialise it."""
    from bnlint import worker

    row = plan.checks(text)[0]
    try:
        checks, skipped = _models(row, plan, on_stage)
    except worker.TargetFailed as failure:
        return failure.report
    if len(checks) != 1:
        names = [check.target for check in checks] or [f"{row.target}:{name} ({why})" for name, why in skipped]
        raise ConfigError(f"`{text}` names {len(checks)} models; name one of: {', '.join(names) or 'it has none'}")
    settings = checks[0].settings
    job = replace(settings.job(checks[0].target, ()), layers=True)
    return worker.check(job, **_limits(settings, on_stage))


def wanted(targets: Sequence[str], plan: Plan) -> list[Check]:
    """What the targets name, folders as their files; without targets what the plan has configured."""
    from bnlint import target

    if targets:
        return [row for text in target.expand(targets) for row in plan.checks(text)]
    return [Check(text, row.settings) for row in plan.configured for text in target.expand([row.target])]


def _checked(check: Check, chosen: Chosen, on_stage: Event) -> Checked:
    from bnlint import worker

    job, cache = check.settings.job(check.target, chosen.rules, chosen.options), _cache(check.settings)
    row = cache.report(job) if cache else None
    if row is None:
        row = worker.check(job, **_limits(check.settings, on_stage))
        if cache:
            cache.keep_report(job, row)
    return Checked(row, chosen, check.settings.inline_ignores)


def _cache(settings: Settings) -> Cache | None:
    """Where answers are kept, unless nothing is to be remembered or a debugger is to see everything happen."""
    if not settings.cache or settings.debug or not settings.isolate:
        return None
    if interpreter(settings.python, settings.root) != sys.executable:
        return None  # of another environment nobody here knows when it changes
    folder = Path(settings.cache_dir) if settings.cache_dir else default_folder()
    return Cache(folder) if folder else None


def _discovered(path: Path, settings: Settings, on_stage: Event) -> tuple[list[str], list[tuple[str, str]]]:
    from bnlint import worker

    job, cache = Job(path.as_posix()), _cache(settings)
    found = cache.models(job) if cache else None
    if found is None:
        files: list[str] = []
        found = worker.discover(path, files=files, meta=settings.meta, **_limits(settings, on_stage))
        if cache:
            cache.keep_models(job, *found, files)
    return found


def _models(row: Check, plan: Plan, on_stage: Event) -> tuple[list[Check], list[tuple[str, str]]]:
    """The targets in a file given without a name, and what it leaves out; any other target is itself."""
    from bnlint import target

    parsed = target.parse(row.target)
    if parsed.path is None or parsed.attribute is not None or not parsed.path.is_file():
        return [row], []
    names, skipped = _discovered(parsed.path, row.settings, on_stage)
    configured = {name: [check for check in plan.checks(name) if check in plan.configured] for name in names}
    checks = [check for name in names for check in configured[name] or [Check(name, row.settings)]]
    others = [check for check in plan.in_file(parsed.path) if check not in checks and check.target != row.target]
    told = {target.parse(check.target).attribute for check in others}
    return checks + others, [(name, reason) for name, reason in skipped if name not in told]


def _limits(settings: Settings, on_stage: Event) -> dict[str, Any]:
    return {
        "timeout": settings.timeout,
        "memory_limit": settings.memory_limit,
        "on_stage": on_stage,
        "isolate": settings.isolate,
        "python": settings.python,
    }


def _check_module(model: Any, settings: Settings, inputs: Any) -> Report:
    torch = sys.modules.get("torch")  # without it there is no module to be had
    if torch is None or not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module or a target such as 'path.py:Net', got {type(model).__name__}")
    from bnlint import audit

    rules = load_rules(settings.rule_paths)
    chosen = choose(rules, settings)
    job = settings.job(type(model).__qualname__, chosen.rules, chosen.options)
    row = audit.audit_module(model, job, inputs)
    return settle([Checked(row, chosen, settings.inline_ignores)], rules)


def _all_text(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(row, str) for row in value)


def _texts(value: Iterable[str | PathLike[str]]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(fspath(row) for row in value)
