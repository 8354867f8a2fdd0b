"""`bnlint init`: how every layer of a model starts out, and how it should."""

from __future__ import annotations

import sys
from typing import Any

import click

from bnlint import api
from bnlint.commands.options import ENVIRONMENT, Command, complete_target, option, planned, running
from bnlint.job import Report, TargetReport
from bnlint.report import full
from bnlint.report.terminal import Progress, put, width


@click.command(cls=Command, context_settings=ENVIRONMENT)
@click.argument("target", shell_complete=complete_target)
@running
@option("Output", "--json", "as_json", is_flag=True, help="Print a JSON document; docs/init.md explains its fields.")
@option("Output", "--suggest", is_flag=True, help="Print a function `init_weights` for `model.apply`.")
@click.pass_context
def init(
    ctx: click.Context,
    /,
    target: str,
    configs: tuple[str, ...],
    isolated: bool,
    as_json: bool,
    suggest: bool,
    **options: Any,
) -> int:
    """Shows each layer's weights, the scheme they follow and what the layer's place calls for; or writes that down.

    TARGET is one model: path.py:Net, "path.py:Net(num_classes=10)", path.py:factory or pkg.mod:Net.
    """
    if as_json and suggest:
        raise click.UsageError("--json and --suggest exclude each other; the document holds the function, too")
    plan = planned(ctx, [target], configs, isolated)
    with Progress(sys.stderr) as progress:
        report = api.layers(target, plan, progress.stage)
    return _put(report, as_json=as_json, suggest=suggest)


def _put(report: TargetReport, *, as_json: bool, suggest: bool) -> int:
    from bnlint.report import layers  # brings tabulate, which other commands do not pay for

    failed = report.status == "failed"
    if as_json:
        put(layers.document(report), sys.stdout)
    elif failed:
        put(full.render(Report([report])), sys.stderr)
    else:
        put(report.suggestion.rstrip("\n") if suggest else layers.table(report, width(sys.stdout)), sys.stdout)
    return 2 if failed else 0
