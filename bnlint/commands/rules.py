"""`bnlint rules`, `bnlint rule` and `bnlint version`."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import click

import bnlint
from bnlint.commands.options import ENVIRONMENT, complete_rules
from bnlint.config import FAMILIES
from bnlint.registry import load_rules, resolve
from bnlint.report.terminal import put
from bnlint.report.text import clean, rule_url
from bnlint.rule import ENGINE_CODES, EngineCode, Rule


@click.command(context_settings=ENVIRONMENT)
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


@click.command(context_settings=ENVIRONMENT)
@click.argument("rule", shell_complete=complete_rules)
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
