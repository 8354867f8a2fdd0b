"""`bnlint check`: parses its options, calls the API, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bnlint import api
from bnlint.baseline import Baseline, in_use
from bnlint.changed import changed_since, concerned
from bnlint.commands.options import ENVIRONMENT, Command, among, checking, given, option, planned
from bnlint.commands.outputs import Output, checked_outputs, draw, parse_outputs, plot_file, write_outputs
from bnlint.commands.show import shown_settings, shown_targets
from bnlint.config import Check, Plan
from bnlint.job import Report
from bnlint.report import FORMATS
from bnlint.report.terminal import Progress, colored, put, width
from bnlint.report.text import Look, clean
from bnlint.rule import Severity


@click.command(cls=Command, context_settings=ENVIRONMENT)
@checking
@option(
    "Rules",
    "--fail-on",
    type=click.Choice([severity.value for severity in reversed(Severity)]),
    default="warning",
    show_default=True,
    help="Lowest severity that makes the exit code 1.",
)
@option("Rules", "--exit-zero", is_flag=True, help="Exit with 0 instead of 1.")
@option("Run", "-j", "--jobs", type=click.IntRange(min=1), help="Targets checked at once; default: a core each.")
@option("Configuration", "--changed", is_flag=True, help="TARGETS are changed files: check the models they concern.")
@option("Configuration", "--diff-base", metavar="REV", help="Check what the changes since a git revision concern.")
@option("Configuration", "--no-baseline", is_flag=True, help="Report known findings, too.")
@option("Configuration", "--show-settings", is_flag=True, help="Print the settings of each target and stop.")
@option("Configuration", "--show-targets", is_flag=True, help="Print what would be checked and stop.")
@option("Output", "--output-format", type=click.Choice(FORMATS), default="full", show_default=True, help="Format.")
@option(
    "Output",
    "--output",
    "outputs",
    multiple=True,
    metavar="FORMAT[:FILE]",
    shell_complete=among(FORMATS),
    help="Several reports of one run.",
)
@option("Output", "--output-file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@option(
    "Output",
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour; auto heeds NO_COLOR, FORCE_COLOR and the terminal.",
)
@option(
    "Output",
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=plot_file,
    metavar="FILE",
    help="Draw the signal by depth into an .svg or .png file (needs matplotlib).",
)
@option("Output", "--show-suppressed", is_flag=True, help="Also what comments and the configuration silence.")
@option("Output", "--statistics", is_flag=True, help="How often each rule found something, not where.")
@option("Output", "--timings", is_flag=True, help="Also time per stage and of the slowest rules.")
@option("Output", "-q", "--quiet", is_flag=True, help="Only the findings.")
@option("Output", "-v", "--verbose", is_flag=True, help="Also time per stage and the rules that did not run.")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    targets: tuple[str, ...],
    configs: tuple[str, ...],
    isolated: bool,
    fail_on: str,
    exit_zero: bool,
    output_format: str,
    outputs: tuple[str, ...],
    output_file: Path | None,
    color: str,
    quiet: bool,
    verbose: bool,
    statistics: bool,
    timings: bool,
    baseline: str | None,
    no_baseline: bool,
    show_suppressed: bool,
    plot: Path | None,
    changed: bool,
    diff_base: str | None,
    jobs: int | None,
    show_settings: bool,
    show_targets: bool,
    **options: Any,
) -> int:
    """Checks models: path.py:Net, "path.py:Net(num_classes=10)", path.py:factory, pkg.mod:Net, a file or a folder."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    if outputs and given(ctx).keys() & {"output_format", "output_file"}:
        raise click.UsageError("--output and --output-format or --output-file exclude each other")
    if options.get("inputs") and options.get("input_fn"):
        raise click.UsageError("--input and --input-fn exclude each other")
    if statistics and given(ctx).keys() & {"output_format", "outputs"}:
        raise click.UsageError("--statistics is an output format: `--output statistics` combines it with others")
    if changed and diff_base is not None:
        raise click.UsageError("--changed and --diff-base exclude each other")
    plan = planned(ctx, targets, configs, isolated, files=changed)
    only = concerned(plan, targets) if changed else None
    if diff_base is not None:
        only = concerned(plan, changed_since(diff_base), api.wanted(targets, plan) if targets else ())
    if show_settings or show_targets:
        rows = api.wanted(targets, plan) if only is None else only
        put("\n".join(shown_settings(plan, rows) if show_settings else shown_targets(rows)), sys.stdout)
        return 0
    output_format = given(ctx).get("output_format") or plan.config.values.get("output_format", output_format)
    output_format = "statistics" if statistics else output_format
    reports = checked_outputs(parse_outputs(outputs) or [Output(output_format, output_file)])
    fail_on = given(ctx).get("fail_on") or plan.config.values.get("fail_on", fail_on)
    known = None if no_baseline or (isolated and not baseline) else in_use(plan.config, baseline)
    if diff_base is not None and not only and not quiet:
        put(f"nothing to check: the changes since {diff_base} concern no target", sys.stderr)
    report = checked(targets, plan, quiet, known, only, jobs)
    look = Look(colored(color, sys.stdout), width(sys.stdout), quiet, verbose, timings, show_suppressed)
    write_outputs(report, reports, look, color)
    if plot is not None:
        draw(report, plot)
    code = report.exit_code(Severity(fail_on))
    return 0 if code == 1 and exit_zero else code


def checked(
    targets: Sequence[str],
    plan: Plan,
    quiet: bool = False,
    known: Baseline | None = None,
    only: Sequence[Check] | None = None,
    jobs: int | None = None,
) -> Report:
    """The report; progress and what was skipped go to stderr."""
    if not targets and not plan.configured and only is None:
        where = f"{plan.config.name} configures none" if plan.config.file else "none is configured"
        raise click.UsageError(f"name a target, such as `bnlint check models/net.py:Net`; {where}")
    skipped: list[str] = []
    with Progress(sys.stderr, quiet=quiet) as progress:
        report = api.check_targets(
            targets,
            plan,
            only=only,
            known=known,
            jobs=jobs,
            on_stage=progress.stage,
            on_skip=lambda name, reason: skipped.append(f"skipped {name}: {reason}"),
        )
    if not report.targets and only != []:
        skipped.append(f"no model to check in {', '.join(targets or [row.target for row in plan.configured])}")
    for line in [] if quiet else skipped:
        put(clean(line), sys.stderr)
    return report
