"""`bnlint rules`, `bnlint rule` and `bnlint version`."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import click

import bnlint
from bnlint.commands.options import ENVIRONMENT, Command, complete_rules, planned, selecting
from bnlint.config import FAMILIES, Plan, choose, decided
from bnlint.registry import load_rules, resolve
from bnlint.report.terminal import put
from bnlint.report.text import clean, rule_url
from bnlint.rule import ENGINE_CODES, EngineCode, Rule, State


@click.command(cls=Command, context_settings=ENVIRONMENT)
@selecting
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def rules(ctx: click.Context, /, configs: tuple[str, ...], isolated: bool, as_json: bool, **options: Any) -> None:
    """Lists every rule, and whether it is on with the configuration and the options that `bnlint check` would take."""
    known = _Known(planned(ctx, (), configs, isolated))
    rows = [known.values(code) for code in (*known.rules, *ENGINE_CODES)]
    if as_json:
        put(json.dumps(rows, indent=2, default=str), sys.stdout)
        return
    table = [[row["code"], row["name"], row["severity"], row["phase"] or "", _on(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells, row in zip(table, rows, strict=True):
        padded = [f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)]
        put("  ".join([*padded, clean(row["summary"])]), sys.stdout)


@click.command(cls=Command, context_settings=ENVIRONMENT)
@click.argument("rule", shell_complete=complete_rules)
@selecting
@click.pass_context
def rule(ctx: click.Context, /, rule: str, configs: tuple[str, ...], isolated: bool, **options: Any) -> None:
    """Explains one rule, given its code or its name, and says whether and why it is on."""
    known = _Known(planned(ctx, (), configs, isolated))
    code = resolve(rule, known.rules)
    row = known.values(code)
    phase = f", phase {row['phase']}" if row["phase"] else ""
    lines = [f"{code} {row['name']}", f"{row['severity']}{phase}, family {row['family']}"]
    lines += [f"{row['state']} since {row['since']}; {'on' if row['enabled'] else 'off'}: {row['because']}", ""]
    lines += (known.rules[code].doc() if code in known.rules else row["summary"]).split("\n")
    for name, option in row["options"].items():
        told = "" if option["value"] == option["default"] else f", here {option['value']!r}"
        lines += ["", f"Option `{name}` ({option['type']}), default {option['default']!r}{told}"]
    put("\n".join(clean(line) for line in lines), sys.stdout)


@click.command("version", context_settings=ENVIRONMENT)
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


class _Known:
    """Every rule there is, with what the configuration and the options make of it."""

    def __init__(self, plan: Plan) -> None:
        settings = plan.default
        self.rules = load_rules(settings.rule_paths)
        self._chosen = choose(self.rules, settings)
        self._decided = decided(self.rules, settings.selections, preview=settings.preview)

    def values(self, code: str) -> dict[str, Any]:
        """A rule, or a BN9xx code, as `bnlint rules --json` prints it."""
        row: type[Rule] | EngineCode = self.rules.get(code) or ENGINE_CODES[code]
        options = row.options() if isinstance(row, type) else {}
        told = self._chosen.options.get(code, {})
        return {
            "code": code,
            "name": row.name,
            "family": next((name for name, prefix in FAMILIES.items() if code.startswith(prefix)), "plugin"),
            "severity": self._chosen.severity.get(code, row.severity).value,
            "phase": row.phase.value if isinstance(row, type) else None,
            "state": row.state.value if isinstance(row, type) else State.STABLE.value,
            "since": row.since,
            "enabled": self._decided[code].on,
            "because": self._decided[code].why,
            "summary": row.summary() if isinstance(row, type) else row.summary,
            "options": {
                name: {"type": kind.__name__, "default": default, "value": told.get(name, default)}
                for name, (kind, default) in options.items()
            },
            "url": rule_url(code, row.name),
        }


def _on(row: dict[str, Any]) -> str:
    """The word for the list: whether the rule runs, and what is special about it."""
    word = "on" if row["enabled"] else "off"
    return word if row["state"] == State.STABLE.value else f"{word} ({row['state']})"


def _version(package: str) -> str:
    from importlib import metadata  # slow to import, and `--help` does without

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
