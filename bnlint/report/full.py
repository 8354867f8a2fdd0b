"""The default format: each finding with the line it is about, then a summary of each target."""

from __future__ import annotations

import linecache

from bnlint.job import Report
from bnlint.report.text import (
    Look,
    bold,
    clean,
    columns,
    modules,
    position,
    relative,
    source_lines,
    state,
    summary,
    total,
    visible,
    wrapped,
)
from bnlint.rule import Finding, Location

_TAB = 4


def render(report: Report, look: Look | None = None) -> str:
    """The report for people."""
    look = look or Look()
    for at in {f.location or f.call for target in report.targets for f in visible(target, look)}:
        if at:
            linecache.checkcache(at.file)  # the file may have been edited since the last report of this process
    blocks = []
    for target in report.targets:
        blocks += [_block(finding, look) for finding in visible(target, look)]
        blocks += [] if look.quiet else ["\n".join(summary(target, look))]
    if not look.quiet:
        blocks += total(report)
        blocks += ["Run `bnlint rule CODE` to read about a finding."] if report.findings else []
    return "\n\n".join(blocks)


def _block(finding: Finding, look: Look) -> str:
    severity = finding.severity
    label = bold(f"{severity.value}[{finding.code}]", look, severity)
    lines = [f"{label} {finding.name}: {bold(clean(finding.message), look)}{state(finding)}", *_where(finding, look)]
    lines += _said("note", finding.note, look) + _said("help", finding.help, look)
    return "\n".join(lines)


def _where(finding: Finding, look: Look) -> list[str]:
    """The place as `-->`, and under it the line of source with a caret, when it can be read."""
    at, paths = finding.location or finding.call, modules(finding)
    suffix = f"  ({paths})" if paths else ""
    if at is None:
        return [f"  --> {clean(finding.target)}{suffix}"]
    margin = " " * len(str(at.line))
    snippet = _snippet(finding, at, look)
    lines = [f"{margin}--> {position(at)}{suffix}", *snippet]
    call = finding.call if finding.location else None
    if call and (call.file, call.line) != (at.file, at.line):
        lines += [f"{margin} |"] if snippet else []
        lines.append(f"{margin} = called at {clean(relative(call.file))}:{call.line}")
    return lines


def _snippet(finding: Finding, at: Location, look: Look) -> list[str]:
    source = source_lines(at.file)
    if not 1 <= at.line <= len(source):
        return []
    margin = " " * len(str(at.line))
    cells = _cells(source[at.line - 1])
    start, end = _span(source[at.line - 1], at)
    before = columns("".join(cells[:start]))
    caret = "^" * max(1, columns("".join(cells[start:end])))
    lines = [f"{margin} |"]
    if at.line > 1:
        lines.append(_numbered(at.line - 1, len(margin), _cells(source[at.line - 2])))
    lines.append(_numbered(at.line, len(margin), cells))
    lines.append(f"{margin} | {' ' * before}{bold(caret, look, finding.severity)}")
    return lines


def _span(line: str, at: Location) -> tuple[int, int]:
    """Where the caret starts and ends; without columns all of the line, of several lines the first."""
    text = line.rstrip()
    if at.column is None:
        return len(text) - len(text.lstrip()), len(text)
    start = min(at.column - 1, len(text))
    if at.end_line is not None and at.end_line > at.line:
        return start, len(text)
    return start, min(at.end_column - 1, len(text)) if at.end_column is not None else start + 1


def _cells(line: str) -> list[str]:
    """What is shown for each character, so that a caret can be put below it."""
    cells: list[str] = []
    width = 0
    for character in line:
        cells.append(" " * (_TAB - width % _TAB) if character == "\t" else clean(character))
        width += columns(cells[-1])
    return cells


def _numbered(number: int, width: int, cells: list[str]) -> str:
    return f"{number:>{width}} | {''.join(cells)}".rstrip()


def _said(label: str, text: str, look: Look) -> list[str]:
    """`help: ...`, wrapped; indented lines, such as a traceback's, stay as they are."""
    indent, lines = " " * (len(label) + 2), []
    for line in text.split("\n") if text else []:
        if line.startswith((" ", "\t")):
            lines.append(indent + clean(line.expandtabs(_TAB)))
        else:
            lines += wrapped(clean(line), max(look.width, 40), indent)
    return [bold(f"{label}:", look) + lines[0][len(label) + 1 :], *lines[1:]] if lines else []
