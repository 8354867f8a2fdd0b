"""The command line: reads options, calls the API, prints. It never imports torch and holds no logic of its own."""

from __future__ import annotations

import difflib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

import bnlint
from bnlint import api
from bnlint.config import DTYPES, FAMILIES, LOSSES, MODES, ConfigError, Settings, parse_size
from bnlint.job import Report
from bnlint.registry import RegistryError, load_rules, resolve
from bnlint.report import FORMATS, render
from bnlint.report.terminal import Progress, colored, put, width
from bnlint.report.text import Look, clean, rule_url
from bnlint.rule import ENGINE_CODES, EngineCode, Rule, Severity
from bnlint.target import TargetError

_Function = TypeVar("_Function", bound=Callable[..., Any])
_ENVIRONMENT = {"auto_envvar_prefix": "BNLINT"}  # BNLINT_SEED=1 is --seed 1
_POSITIVE = click.FloatRange(min=0, min_open=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `bnlint` and returns its exit code: 0, 1, 2 or, when interrupted, 130."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=args or ["--help"], prog_name="bnlint", standalone_mode=False)
        return int(code or 0) if args else 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        put(f"Error: {clean(error.format_message())}", sys.stderr)
        put(f"Try `{context.command_path} --help`." if context else "", sys.stderr)
    except (ConfigError, RegistryError, TargetError) as error:
        put(f"Error: {clean(str(error))}", sys.stderr)
    except (click.Abort, KeyboardInterrupt):
        put("interrupted", sys.stderr)
        return 130
    except Exception as error:  # the last resort: people get a sentence, not a traceback
        if "--debug" in args or os.environ.get("BNLINT_DEBUG"):
            traceback.print_exc()
        reason = clean(f"{type(error).__name__}: {error}")
        put(f"Error: bnlint itself failed ({reason}); run again with --debug and report what it prints", sys.stderr)
    return 2


class _Group(click.Group):
    """Suggests the command that was meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Finds the command or says which one comes near."""
        name = args[0]
        if name.startswith("-") or self.get_command(ctx, name):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
        meant = near[0] if near else f"check {name}" if any(mark in name for mark in ".:/\\") else None
        return ctx.fail(f"No such command '{name}'." + (f" Did you mean `bnlint {meant}`?" if meant else ""))


class _Option(click.Option):
    """An option that `--help` lists under a heading."""

    def __init__(self, *args: Any, heading: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class _Command(click.Command):
    """A command whose `--help` lists its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record:
                sections.setdefault(getattr(option, "heading", "Other options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _option(heading: str, *names: str, **settings: Any) -> Callable[[_Function], _Function]:
    return click.option(*names, cls=_Option, heading=heading, **settings)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return parse_size(value) if value else None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bnlint.__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """A linter for PyTorch models: builds a model, follows one run of it and reports what is broken or hurts training.

    Exit code 0: nothing at or above --fail-on; 1: something is; 2: a check did not happen; 130: interrupted.
    """


@cli.command(cls=_Command, context_settings=_ENVIRONMENT)
@click.argument("targets", nargs=-1)
@_option("Input", "--input", "inputs", multiple=True, metavar="SPEC", help="8x3x32x32, int64[8,128]<1000 or name=SPEC.")
@_option("Input", "--input-fn", metavar="FILE:FUNCTION", help="Function that returns a tensor, a tuple or a dict.")
@_option("Input", "--batch-size", type=click.IntRange(min=1), help="Samples in the batch when no --input says it.")
@_option("Run", "--loss", metavar="NAME", help=f"Loss for the backward pass: {', '.join(LOSSES)}.")
@_option("Run", "--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@_option("Run", "--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, xpu, or auto.")
@_option("Run", "--dtype", metavar="NAME", help=f"Convert the model to one of {', '.join(DTYPES)}.")
@_option("Run", "--mode", type=click.Choice(MODES), default="train", show_default=True, help="Mode of the model.")
@_option("Run", "--static", is_flag=True, help="Stop before the model runs on data: only source, modules and graph.")
@_option("Run", "--timeout", type=_POSITIVE, default=120.0, show_default=True, help="Seconds for each target.")
@_option("Run", "--memory-limit", callback=_size, metavar="SIZE", help="Memory a target may use, such as 2G or 512M.")
@_option("Run", "--isolate/--no-isolate", default=True, help="A process for each target (default), or none.")
@_option("Rules", "--select", multiple=True, metavar="RULES", help="Codes, prefixes (BN2), names, families or ALL.")
@_option("Rules", "--ignore", multiple=True, metavar="RULES", help="The same; the more specific one wins.")
@_option("Rules", "--rule-path", "rule_paths", multiple=True, metavar="PATH", help="File or folder with more rules.")
@_option(
    "Rules",
    "--fail-on",
    type=click.Choice([severity.value for severity in reversed(Severity)]),
    default="warning",
    show_default=True,
    help="Lowest severity that makes the exit code 1.",
)
@_option("Rules", "--exit-zero", is_flag=True, help="Exit with 0 instead of 1.")
@_option("Rules", "--isolated", is_flag=True, expose_value=False, help="Read no configuration file.")
@_option("Output", "--output-format", type=click.Choice(FORMATS), default="full", show_default=True, help="Format.")
@_option("Output", "--output-file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@_option(
    "Output",
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour; auto heeds NO_COLOR, FORCE_COLOR and the terminal.",
)
@_option("Output", "-q", "--quiet", is_flag=True, help="Only the findings.")
@_option("Output", "-v", "--verbose", is_flag=True, help="Also time per stage and the rules that did not run.")
@_option("Output", "--debug", is_flag=True, help="Show the traceback of an error inside bnlint.")
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


@cli.command(context_settings=_ENVIRONMENT)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--rule-path", "rule_paths", multiple=True, metavar="PATH", help="File or folder with more rules.")
def rules(as_json: bool, rule_paths: tuple[str, ...]) -> None:
    """Lists every rule."""
    known: list[type[Rule] | EngineCode] = [*load_rules(rule_paths).values(), *ENGINE_CODES.values()]
    rows = [_described(row) for row in known]
    if as_json:
        put(json.dumps(rows, indent=2, default=str), sys.stdout)
        return
    keys = ("code", "name", "severity", "phase")
    widths = [max(len(row[key] or "") for row in rows) for key in keys]
    for row in rows:
        cells = [f"{row[key] or '':{width}}" for key, width in zip(keys, widths, strict=True)]
        put("  ".join([*cells, clean(row["summary"])]), sys.stdout)


@cli.command(context_settings=_ENVIRONMENT)
@click.argument("rule")
@click.option("--rule-path", "rule_paths", multiple=True, metavar="PATH", help="File or folder with more rules.")
def rule(rule: str, rule_paths: tuple[str, ...]) -> None:
    """Explains one rule, given its code or its name."""
    known = load_rules(rule_paths)
    code = resolve(rule, known)
    row = _described(known.get(code) or ENGINE_CODES[code])
    phase = f", phase {row['phase']}" if row["phase"] else ""
    lines = [f"{row['code']} {row['name']}", f"{row['severity']}{phase}, family {row['family']}", ""]
    lines += (known[code].doc() if code in known else row["summary"]).split("\n")
    for name, option in row["options"].items():
        lines += ["", f"Option `{name}` ({option['type']}), default {option['default']!r}"]
    put("\n".join(clean(line) for line in lines), sys.stdout)


@cli.command("version", context_settings=_ENVIRONMENT)
@click.option("-v", "--verbose", is_flag=True, help="Also Python, the platform, and the packages bnlint stands on.")
def version_command(verbose: bool) -> None:
    """Prints the version."""
    lines = [f"bnlint {bnlint.__version__}"]
    if verbose:
        lines.append(
            f"python {platform.python_version()} ({platform.python_implementation()}) on {platform.platform()}"
        )
        lines += [f"{package} {_version(package)}" for package in ("torch", "click", "tabulate")]
    put("\n".join(lines), sys.stdout)


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


def _described(row: type[Rule] | EngineCode) -> dict[str, Any]:
    """A rule, or a BN9xx code, as the values that `bnlint rules --json` prints."""
    options = row.options() if isinstance(row, type) else {}
    return {
        "code": row.code,
        "name": row.name,
        "family": next((name for name, prefix in FAMILIES.items() if row.code.startswith(prefix)), "plugin"),
        "severity": row.severity.value,
        "phase": row.phase.value if isinstance(row, type) else None,
        "summary": row.summary() if isinstance(row, type) else row.summary,
        "options": {name: {"type": kind.__name__, "default": default} for name, (kind, default) in options.items()},
        "url": rule_url(row.name),
    }


def _version(package: str) -> str:
    from importlib import metadata  # slow to import, and `--help` does without

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
