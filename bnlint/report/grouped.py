"""The findings of each file together."""

from __future__ import annotations

from itertools import groupby

from bnlint.job import Report, sort_findings
from bnlint.report.place import findings, sentence
from bnlint.report.text import Look, bold, clean, relative, state, summary, total
from bnlint.rule import Finding, Location


def render(report: Report, look: Look | None = None) -> str:
    """A block for each file that has findings, by line, and a summary of each target."""
    look = look or Look()
    rows = sorted(sort_findings(findings(report, look)), key=_by_place)
    blocks = [
        "\n".join([f"{bold(clean(relative(file)), look)}:", *_lines(list(group), look)])
        for file, group in groupby(rows, key=lambda f: _at(f).file)
    ]
    if not look.quiet:
        blocks += ["\n".join(summary(target, look)) for target in report.targets] + total(report)
    return "\n\n".join(blocks)


def _lines(rows: list[Finding], look: Look) -> list[str]:
    places = [f"{_at(row).line}:{_at(row).column or 1}" for row in rows]
    width = max(map(len, places))
    return [
        f"  {place:>{width}}  {bold(f'{row.severity.value}[{row.code}]', look, row.severity)} {row.name}: "
        f"{sentence(row)}{state(row)}"
        for place, row in zip(places, rows, strict=True)
    ]


def _by_place(finding: Finding) -> tuple[str, int, int]:
    return _at(finding).file, _at(finding).line, _at(finding).column or 0


def _at(finding: Finding) -> Location:
    assert finding.location is not None  # `findings` gives each one a location
    return finding.location
