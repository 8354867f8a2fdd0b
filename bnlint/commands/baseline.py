"""`bnlint baseline write`, `prune` and `show`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from bnlint import baseline
from bnlint.commands.check import checked
from bnlint.commands.options import ENVIRONMENT, Command, checking, option, planned
from bnlint.config.files import shown_path
from bnlint.job import Report
from bnlint.registry import load_rules
from bnlint.report.terminal import put
from bnlint.report.text import clean
from bnlint.whole import write as write_file

_quiet = option("Output", "-q", "--quiet", is_flag=True, help="Say nothing when it went well.")


@click.group("baseline")
def baseline_group() -> None:
    """Keeps known findings in a file, so that only new ones count."""


@baseline_group.command(cls=Command, context_settings=ENVIRONMENT)
@checking
@_quiet
@click.pass_context
def write(ctx: click.Context, /, **options: Any) -> int:
    """Checks the targets and writes what is found into the baseline; other targets and rules keep their entries."""
    return _update(ctx, add=True, **options)


@baseline_group.command(cls=Command, context_settings=ENVIRONMENT)
@checking
@_quiet
@click.pass_context
def prune(ctx: click.Context, /, **options: Any) -> int:
    """Checks the targets and removes the entries that are not found any more; adds none."""
    return _update(ctx, add=False, **options)


@baseline_group.command(cls=Command, context_settings=ENVIRONMENT)
@option("Configuration", "--config", "configs", multiple=True, metavar="FILE|KEY=VALUE", help="File or setting.")
@option("Configuration", "--baseline", metavar="FILE", help="The baseline.")
@click.pass_context
def show(ctx: click.Context, /, configs: tuple[str, ...], **options: Any) -> int:
    """Prints the baseline by target and rule."""
    plan = planned(ctx, (), configs, isolated=False)
    known = baseline.read(baseline.location(plan.config, options["baseline"])[0])
    rules = load_rules(plan.default.rule_paths)
    groups: dict[tuple[str, str], list[str]] = {}
    for entry, count in sorted(known.entries.items()):
        times = f" ({count})" if count > 1 else ""
        groups.setdefault((entry.target, entry.code), []).append((entry.module or "the model") + times)
    for (target, code), modules in groups.items():
        name = f" {rules[code].name}" if code in rules else ""
        put(clean(f"{target}: {code}{name}: {', '.join(modules)}"), sys.stdout)
    put(f"{sum(known.entries.values())} known findings in {clean(shown_path(known.file))}", sys.stderr)
    return 0


def _update(
    ctx: click.Context,
    /,
    targets: tuple[str, ...],
    configs: tuple[str, ...],
    isolated: bool,
    quiet: bool,
    *,
    add: bool,
    **options: Any,
) -> int:
    plan = planned(ctx, targets, configs, isolated)
    file, _ = baseline.location(plan.config, options["baseline"])
    old = baseline.read(file) if file.exists() or not add else baseline.Baseline(file, {})
    report = checked(targets, plan, quiet)
    failed = [row.target for row in report.targets if row.status == "failed"]
    if failed or report.exit_code() == 2:
        what = f"{', '.join(failed)} could not be checked" if failed else "a rule crashed"
        put(f"Error: {clean(what)}, so the baseline stays as it is; `bnlint check` says why", sys.stderr)
        return 2
    new = _merged(old, report, file, add=add, complete=not targets)
    if new != dict(old.entries) or not file.exists():
        write_file(file, baseline.text(new))
    more, fewer = Counter(new) - Counter(old.entries), Counter(old.entries) - Counter(new)
    if not quiet:
        total = f"{sum(new.values())} known findings in {clean(shown_path(file))}"
        put(f"{total} ({sum(more.values())} added, {sum(fewer.values())} removed)", sys.stderr)
    return 0


def _merged(
    old: baseline.Baseline, report: Report, file: Path, *, add: bool, complete: bool
) -> dict[baseline.Entry, int]:
    """The old entries with those of the targets and rules that were checked replaced by what was found."""
    found = baseline.found_in(old, report.targets)
    ran = baseline.judged(report.targets, file)
    gone = {entry for entry in old.entries if (entry.code in ran[entry.target] if entry.target in ran else complete)}
    kept = {entry: count for entry, count in old.entries.items() if entry not in gone}
    if add:
        return {**kept, **found}
    left = {entry: min(count, found[entry]) for entry, count in old.entries.items() if entry in gone}
    return {**kept, **{entry: count for entry, count in left.items() if count}}
