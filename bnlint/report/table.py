"""The findings of each target as a table in the order of the model's modules."""

from __future__ import annotations

import re

from tabulate import tabulate

from bnlint.job import Report, TargetReport
from bnlint.report.text import Look, bold, clean, columns, position, state, summary, total, visible, wrapped
from bnlint.rule import Finding

_HEADERS = ("severity", "code", "module", "where", "message")
_NARROWEST = 30


def render(report: Report, look: Look | None = None) -> str:
    """A table for each target that has findings, and a summary of each."""
    look = look or Look()
    blocks = []
    for target in report.targets:
        blocks += [_table(target, look)] if visible(target, look) else []
        blocks += [] if look.quiet else ["\n".join(summary(target, look))]
    return "\n\n".join(blocks + ([] if look.quiet else total(report)))


def _table(target: TargetReport, look: Look) -> str:
    findings = sorted(visible(target, look), key=_by_module)
    rows = [_row(finding) for finding in findings]
    padded = [f"{header}  " for header in _HEADERS]  # as tabulate does
    taken = sum(max(columns(row[i]) for row in (padded, *rows)) + 2 for i in range(4))
    room = max(look.width - taken, _NARROWEST)
    for finding, row in zip(findings, rows, strict=True):
        row[0] = bold(row[0], look, finding.severity)
        row[4] = "\n".join(wrapped(row[4], room))
    return tabulate(rows, headers=_HEADERS, tablefmt="simple", disable_numparse=True)


def _row(finding: Finding) -> list[str]:
    at = finding.location or finding.call
    more = f" and {len(finding.modules) - 1} more" if len(finding.modules) > 1 else ""
    module = clean(finding.module_path) + more
    return [
        finding.severity.value,
        finding.code,
        module,
        position(at) if at else "",
        clean(finding.message) + state(finding),
    ]


def _by_module(finding: Finding) -> list[tuple[bool, int, str]]:
    """Orders `layers.9` before `layers.10`."""
    parts = re.split(r"(\d+)", finding.module_path)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
