"""`bnlint check`: parses its options, calls the API, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bnlint import api
from bnlint.commands.options import ENVIRONMENT, Command, option
from bnlint.config import DTYPES, LOSSES, MODES, Settings, parse_size
from bnlint.job import Report
from bnlint.report import FORMATS, render
from bnlint.report.terminal import Progress, colored, put, width
from bnlint.report.text import Look, clean
from bnlint.rule import Severity

_POSITIVE = click.FloatRange(min=0, min_open=True)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return parse_size(value) if value else None


@click.command(cls=Command, context_settings=ENVIRONMENT)
@click.argument("targets", nargs=-1)
@option("Input", "--input", "inputs", multiple=True, metavar="SPEC", help="8x3x32x32, int64[8,128]<1000 or name=SPEC.")
@option("Input", "--input-fn", metavar="FILE:FUNCTION", help="Function that returns a tensor, a tuple or a dict.")
@option("Input", "--batch-size", type=click.IntRange(min=1), help="Samples in the batch when no --input says it.")
@option("Run", "--loss", metavar="NAME", help=f"Loss for the backward pass: {', '.join(LOSSES)}.")
@option("Run", "--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@option("Run", "--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, xpu, or auto.")
@option("Run", "--dtype", metavar="NAME", help=f"Convert the model to one of {', '.join(DTYPES)}.")
@option("Run", "--mode", type=click.Choice(MODES), default="train", show_default=True, help="Mode of the model.")
@option("Run", "--static", is_flag=True, help="Stop before the model runs on data: only source, modules and graph.")
@option("Run", "--timeout", type=_POSITIVE, default=120.0, show_default=True, help="Seconds for each target.")
@option("Run", "--memory-limit", callback=_size, metavar="SIZE", help="Memory a target may use, such as 2G or 512M.")
@option("Run", "--isolate/--no-isolate", default=True, help="A process for each target (default), or none.")
@option("Rules", "--select", multiple=True, metavar="RULES", help="Codes, prefixes (BN2), names, families or ALL.")
@option("Rules", "--ignore", multiple=True, metavar="RULES", help="The same; the more specific one wins.")
@option("Rules", "--rule-path", "rule_paths", multiple=True, metavar="PATH", help="File or folder with more rules.")
@option(
    "Rules",
    "--fail-on",
    type=click.Choice([severity.value for severity in reversed(Severity)]),
    default="warning",
    show_default=True,
    help="Lowest severity that makes the exit code 1.",
)
@option("Rules", "--exit-zero", is_flag=True, help="Exit with 0 instead of 1.")
@option("Rules", "--isolated", is_flag=True, expose_value=False, help="Read no configuration file.")
@option("Output", "--output-format", type=click.Choice(FORMATS), default="full", show_default=True, help="Format.")
@option("Output", "--output-file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@option(
    "Output",
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour; auto heeds NO_COLOR, FORCE_COLOR and the terminal.",
)
@option("Output", "-q", "--quiet", is_flag=True, help="Only the findings.")
@option("Output", "-v", "--verbose", is_flag=True, help="Also time per stage and the rules that did not run.")
@option("Output", "--debug", is_flag=True, help="Show the traceback of an error inside bnlint.")
def check(
    targets: tuple[str, ...],
    fail_on: str,
    exit_zero: bool,
    output_format: str,
    output_file: Path | None,
    color: str,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Checks models: path.py:Net, "path.py:Net(num_classes=10)", path.py:factory, pkg.mod:Net, a file or a folder."""
    if not targets:
        raise click.UsageError("name a target, such as `bnlint check models/net.py:Net`; none is configured")
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    if output_file and not output_file.parent.is_dir():
        raise click.UsageError(f"--output-file: there is no folder `{output_file.parent}`")
    report = _checked(targets, Settings(**options), quiet)
    look = Look(colored(color, sys.stdout), width(sys.stdout), quiet, verbose)
    if output_file:
        plain = replace(look, color=color == "always")
        _write(output_file, render(report, output_format, plain))
    else:
        put(render(report, output_format, look), sys.stdout, color=look.color)
    code = report.exit_code(Severity(fail_on))
    return 0 if code == 1 and exit_zero else code


def _checked(targets: Sequence[str], settings: Settings, quiet: bool) -> Report:
    """The report; progress and what was skipped go to stderr."""
    skipped: list[str] = []
    with Progress(sys.stderr, quiet=quiet) as progress:
        report = api.check_targets(
            targets,
            settings,
            on_stage=progress.stage,
            on_skip=lambda name, reason: skipped.append(f"skipped {name}: {reason}"),
        )
    if not report.targets:
        skipped.append(f"no model to check in {', '.join(targets)}")
    for line in [] if quiet else skipped:
        put(clean(line), sys.stderr)
    return report


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text + "\n" if text else "", encoding="utf-8", errors="backslashreplace", newline="\n")
    except OSError as error:
        raise click.UsageError(f"cannot write `{file}`: {error.strerror}") from error
