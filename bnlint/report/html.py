"""The report in a notebook: a table for each target, as HTML without styles or scripts of its own."""

from __future__ import annotations

from html import escape

from bnlint.job import Report, TargetReport
from bnlint.report.text import Look, clean, modules, position, summary, visible
from bnlint.rule import Finding

_HEADERS = ("severity", "code", "module", "where", "message", "help")


def render(report: Report, look: Look | None = None) -> str:
    """The tables, each with the summary of its target."""
    return "\n".join(_target(target, look or Look()) for target in report.targets) or "<p>no model was checked</p>"


def _target(target: TargetReport, look: Look) -> str:
    lines = "<br>".join(map(escape, summary(target, look)))
    rows = "".join(_row(finding) for finding in visible(target, look))
    head = "".join(f"<th>{name}</th>" for name in _HEADERS)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
    return f"<div>{table}<p>{lines}</p></div>"


def _row(finding: Finding) -> str:
    at = finding.location or finding.call
    place = position(at) if at else clean(finding.target)
    code = f"{finding.code} {finding.name}"
    cells = (finding.severity.value, code, modules(finding), place, clean(finding.message), clean(finding.help))
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
