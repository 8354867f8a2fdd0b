"""What the commands share: options under headings, environment variables for all of them, and what they plan."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from bnlint.config import DTYPES, FAMILIES, HALVES, LOSSES, MODES, ConfigError, Plan, find_config, folder_of, parse_size
from bnlint.config.files import overlooked, shown_path
from bnlint.report.terminal import put
from bnlint.report.text import clean
from bnlint.target import parse

_Function = TypeVar("_Function", bound=Callable[..., Any])
_TYPED = ParameterSource.COMMANDLINE
_POSITIVE = click.FloatRange(min=0, min_open=True)
_PREFIX = "BNLINT"
ENVIRONMENT = {"auto_envvar_prefix": _PREFIX}  # BNLINT_SEED=1 is --seed 1


_PLACES = {"FILE": "file", "PATH": "file", "FOLDER": "dir"}  # metavars for which a shell offers what is there
_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _place(kind: str) -> _Complete:
    return lambda ctx, param, incomplete: [CompletionItem(incomplete, type=kind)]


def among(words: Sequence[str]) -> _Complete:
    """Lets a shell offer those of the words that begin like what is there."""
    return lambda ctx, param, incomplete: [CompletionItem(word) for word in words if word.startswith(incomplete)]


complete_target = _place("file")


class Option(click.Option):
    """An option that `--help` lists under a heading."""

    def __init__(self, *args: Any, heading: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Refuses another option in the place of a value, which would leave that one's own value to be a target."""
        names = {name for param in ctx.command.params for name in param.opts}
        if isinstance(value, str) and value in names and ctx.get_parameter_source(self.name or "") is _TYPED:
            raise click.BadOptionUsage(self.opts[0], f"`{self.opts[0]}` needs a value, and gets `{value}`", ctx)
        return super().type_cast_value(ctx, value)


class Command(click.Command):
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


def option(heading: str, *names: str, **settings: Any) -> Callable[[_Function], _Function]:
    """`click.option` under a heading, and with the variable of its name: BNLINT_INPUT for `--input`."""
    word = next(name for name in names if name.startswith("--")).partition("/")[0]
    variable = f"{_PREFIX}_{word.strip('-').replace('-', '_').upper()}"
    kind = next((kind for start, kind in _PLACES.items() if settings.get("metavar", "").startswith(start)), None)
    if kind is not None:
        settings["shell_complete"] = _place(kind)
    return click.option(*names, cls=Option, heading=heading, envvar=variable, **settings)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return parse_size(value) if value else None


def complete_rules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell offers: codes, names and, for options, families; of a list separated by commas for the last one."""
    from bnlint.registry import RegistryError, codes_by_name, load_rules

    before, comma, word = incomplete.rpartition(",")
    try:
        told = ctx.params.get("rule_paths") or Plan(find_config(Path.cwd())).default.rule_paths
        names = codes_by_name(load_rules(told))
    except (RegistryError, ConfigError):
        return []
    found: dict[str, str | None] = {**{code: name for name, code in names.items()}, **names}
    if isinstance(param, click.Option):
        found |= dict.fromkeys((*FAMILIES, "ALL"))
    near = sorted(key for key in found if key.lower().startswith(word.lower()))
    return [CompletionItem(f"{before}{comma}{key}", help=found[key]) for key in near]


_RULES: dict[str, Any] = {"multiple": True, "metavar": "RULES", "shell_complete": complete_rules}
_SELECTING = (
    option("Rules", "--select", **_RULES, help="Codes, prefixes (BN2), names, families or ALL."),
    option("Rules", "--extend-select", **_RULES, help="Run these, too."),
    option("Rules", "--ignore", **_RULES, help="Do not run these; the more specific one wins."),
    option("Rules", "--preview/--no-preview", help="Also run rules that are in preview."),
    option("Rules", "--rule-path", "rule_paths", multiple=True, metavar="PATH", help="File or folder with more rules."),
)
_CONFIGURING = (
    option("Configuration", "--config", "configs", multiple=True, metavar="FILE|KEY=VALUE", help="File or setting."),
    option("Configuration", "--isolated", is_flag=True, help="Read no configuration file."),
)
_RUNNING = (
    option("Input", "--input", "inputs", multiple=True, metavar="SPEC", help="8x3x32x32, int64[8,9]<100, name=SPEC."),
    option("Input", "--input-fn", metavar="FILE:FUNCTION", help="Function that returns a tensor, a tuple or a dict."),
    option("Input", "--batch", metavar="FILE", help="Real data: file.py:loader, or a .pt, .npz or .safetensors file."),
    option("Input", "--batch-size", type=click.IntRange(min=1), help="Samples in the batch when no --input says it."),
    option(
        "Run",
        "--loss",
        metavar="NAME",
        shell_complete=among(LOSSES),
        help=f"Loss for the backward pass: {', '.join(LOSSES)}.",
    ),
    option("Run", "--seed", type=int, default=0, show_default=True, help="Seed of everything random."),
    option("Run", "--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, xpu, or auto."),
    option(
        "Run",
        "--dtype",
        metavar="NAME",
        shell_complete=among(DTYPES),
        help=f"Convert the model to one of {', '.join(DTYPES)}.",
    ),
    option(
        "Run",
        "--autocast",
        metavar="NAME",
        shell_complete=among(HALVES),
        help=f"Run the probe under torch.autocast: {' or '.join(HALVES)}.",
    ),
    option("Run", "--compile/--no-compile", help="Run the model under torch.compile too, and compare."),
    option("Run", "--mode", type=click.Choice(MODES), default="train", show_default=True, help="Mode of the model."),
    option("Run", "--weights", metavar="FILE", help="Check the model with these: a state dict, .pt or .safetensors."),
    option("Run", "--meta/--no-meta", help="Build the model without memory for its values, whatever its size."),
    option("Run", "--static/--no-static", help="Stop before the model runs on data: only modules and graph."),
    option("Run", "--timeout", type=_POSITIVE, default=120.0, show_default=True, help="Seconds for each target."),
    option("Run", "--memory-limit", callback=_size, metavar="SIZE", help="Memory a target may use: 2G or 512M."),
    option("Run", "--isolate/--no-isolate", default=True, help="A process for each target (default), or none."),
    option("Run", "--python", metavar="PATH", help="Interpreter for the models; default: this one."),
)
_DEBUG = option("Output", "--debug", is_flag=True, help="Show the traceback of an error inside bnlint.")
_CHECKING = (
    click.argument("targets", nargs=-1, shell_complete=complete_target),
    *_RUNNING,
    option("Run", "--cache/--no-cache", default=True, help="Answer for unchanged targets from earlier runs (default)."),
    option("Run", "--cache-dir", metavar="FOLDER", help="Where these answers are; default: the user's cache folder."),
    *_SELECTING,
    option("Rules", "--inline-ignores/--no-inline-ignores", default=True, help="Heed comments (default)."),
    *_CONFIGURING,
    option("Configuration", "--baseline", metavar="FILE", help="Known findings; default: bnlint-baseline.json."),
    _DEBUG,
)


def checking(function: _Function) -> _Function:
    """Gives a command the targets and the options of a check, for `planned`."""
    return _with(_CHECKING, function)


def running(function: _Function) -> _Function:
    """Gives a command the options of running one model, for `planned`."""
    return _with((*_RUNNING, *_CONFIGURING, _DEBUG), function)


def selecting(function: _Function) -> _Function:
    """Gives a command the options that say which rules run, for `planned`."""
    return _with((*_SELECTING, *_CONFIGURING), function)


def _with(decorators: Sequence[Callable[[_Function], _Function]], function: _Function) -> _Function:
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def planned(
    ctx: click.Context, targets: Sequence[str], configs: Sequence[str], isolated: bool, *, files: bool = False
) -> Plan:
    """What the targets (or just files), the configuration and the options given, here or as a variable, say."""
    named = map(Path, targets) if files else (parse(text).path for text in targets)
    paths = [path for path in named if path is not None]
    config = find_config(folder_of(paths), configs, isolated=isolated)
    for file in [] if isolated or ctx.params.get("quiet") else overlooked(paths, config, configs):
        put(f"`{clean(shown_path(file))}` is not read, because it is not above everything named here", sys.stderr)
    return Plan(config, given(ctx))


def given(ctx: click.Context) -> dict[str, Any]:
    """The options that the user gave."""
    told = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name) in told}
