"""The command line: reads options, calls the API, prints. It never imports torch and holds no logic of its own."""

from __future__ import annotations

import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

import bnlint
from bnlint.commands.baseline import baseline_group
from bnlint.commands.check import check
from bnlint.commands.clean import clean as clean_command
from bnlint.commands.init import init
from bnlint.commands.init_config import init_config
from bnlint.commands.rules import rule, rules, version_command
from bnlint.config import ConfigError
from bnlint.registry import RegistryError
from bnlint.report.terminal import put
from bnlint.report.text import clean
from bnlint.target import TargetError
from bnlint.whole import WriteError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `bnlint` and returns its exit code: 0, 1, 2 or, when interrupted, 130."""
    args = list(sys.argv[1:] if argv is None else argv)
    sys.stderr = sys.stderr or io.StringIO()  # closed: the exit code still tells
    if sys.stdout is None:
        put("Error: standard output is closed; redirect it to a file or to /dev/null", sys.stderr)
        return 2
    try:
        code = cli.main(args=args or ["--help"], prog_name="bnlint", standalone_mode=False)
        return int(code or 0) if args else 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        put(f"Error: {clean(error.format_message())}", sys.stderr)
        put(f"Try `{context.command_path} --help`." if context else "", sys.stderr)
    except (ConfigError, RegistryError, TargetError, WriteError) as error:
        put(f"Error: {clean(str(error))}", sys.stderr)
    except (click.Abort, KeyboardInterrupt):
        put("interrupted", sys.stderr)
        return 130
    except OSError as error:  # a full disk, a working directory that is gone, a loop of links
        _drop_output()
        what = f"{error.filename}: " if error.filename else ""
        put(f"Error: {clean(f'{what}{error.strerror or error}')}", sys.stderr)
    except Exception as error:  # the last resort: people get a sentence, not a traceback
        if "--debug" in args or os.environ.get("BNLINT_DEBUG"):
            traceback.print_exc()
        reason = clean(f"{type(error).__name__}: {error}")
        put(f"Error: bnlint itself failed ({reason}); run again with --debug and report what it prints", sys.stderr)
    return 2


def _drop_output() -> None:
    """What could not be written is not tried again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = io.StringIO()


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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bnlint.__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """A linter for PyTorch models: builds a model, follows one run of it and reports what is broken or hurts training.

    Exit code 0: nothing at or above --fail-on; 1: something is; 2: a check did not happen; 130: interrupted.
    """


for _command in (check, baseline_group, init, init_config, clean_command, rules, rule, version_command):
    cli.add_command(_command)
