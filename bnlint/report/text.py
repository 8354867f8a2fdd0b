"""What the text formats share: safe characters, paths, colour, counts and the lines that sum up a target."""

from __future__ import annotations

import linecache
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bnlint.job import Report, TargetReport, sort_findings
from bnlint.rule import ENGINE_CODES, Finding, Location, Severity

# C0 and C1 controls, line separators, marks that change the direction of text, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
RULE_PAGES = "docs/rules"  # a folder of the repository, until there is a public address
_LISTED = 3
_SLOWEST = 5


@dataclass(frozen=True)
class Look:
    """How text output looks: colour, columns of the terminal, and how much is said."""

    color: bool = False
    width: int = 100
    quiet: bool = False
    verbose: bool = False
    timings: bool = False  # whether the time of each stage and of the slowest rules is told
    suppressed: bool = False  # whether findings that are silenced are shown, too


def clean(text: str) -> str:
    r"""Text that cannot steer a terminal: control and direction characters become escapes such as `\x1b`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def columns(text: str) -> int:
    """How many terminal columns the text takes."""
    marks = sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) - marks + wide


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """The text in lines of at most `width` columns; code in backticks stays in one piece, to be copied."""
    glued = re.sub("`[^`]*`", lambda match: match[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        glued,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]


def relative(file: str) -> str:
    """A path from the working directory, with forward slashes; paths elsewhere stay as they are."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix()


def position(at: Location) -> str:
    """`models/net.py:14:22`."""
    column = "" if at.column is None else f":{at.column}"
    return f"{clean(relative(at.file))}:{at.line}{column}"


def source_lines(file: str) -> list[str]:
    """The lines of a file; none when it cannot be read."""
    try:
        return [line.rstrip("\n") for line in linecache.getlines(file)]
    except ValueError:  # a null byte in the name
        return []


def rule_url(code: str, name: str) -> str | None:
    """Where the page of a rule is; bnlint's own BN9xx share one, and those of plugins are not known."""
    if not code.startswith("BN"):
        return None
    return f"{RULE_PAGES}/{'index' if code in ENGINE_CODES else name}.md"


def bold(text: str, look: Look, severity: Severity | None = None) -> str:
    """Bold text, in the colour of the severity; the text alone carries the meaning."""
    return click.style(text, bold=True, fg=_COLORS[severity] if severity else None) if look.color else text


def modules(finding: Finding) -> str:
    """`backbone.bn1.fc, 2 more: bn2.fc, bn3.fc`; empty for the model itself."""
    rest = [path for path in finding.modules if path != finding.module_path]
    if not rest:
        return clean(finding.module_path)
    listed = ", ".join(clean(path) for path in rest[:_LISTED]) + (", ..." if len(rest) > _LISTED else "")
    return f"{clean(finding.module_path)}, {len(rest)} more: {listed}"


def visible(target: TargetReport, look: Look | None = None) -> list[Finding]:
    """The findings of one target in the order of the report, suppressed ones only when they are to be shown."""
    shown = look is not None and look.suppressed
    return sort_findings([f for f in target.findings if shown or f.suppressed is None])


def state(finding: Finding) -> str:
    """` (suppressed: why)`, or nothing."""
    return f" (suppressed: {clean(finding.suppressed)})" if finding.suppressed else ""


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Findings by severity, errors first."""
    found = Counter(f.severity for f in findings)
    return {severity.value: found[severity] for severity in reversed(Severity)}


def summary(target: TargetReport, look: Look) -> list[str]:
    """One line on what was found and checked, then what was left out."""
    name, found = clean(target.target), _count_words(visible(target))
    if target.status == "failed":
        head = f"Could not check {name}" + (f": {found}" if found else "")
    else:
        head = f"Found {found} in {name}" if found else f"{name}: no findings"
    hidden = sum(finding.suppressed is not None for finding in target.findings)
    quiet = f"{hidden} suppressed" if hidden else ""
    facts = "; ".join(filter(None, (quiet, _inputs(target.input), _numbers(target))))
    lines = [head + (f" ({facts})" if facts else "")]
    lines += [f"  {clean(note)}" for note in target.notes]
    return lines + (_details(target, look) if look.verbose else []) + (_timings(target) if look.timings else [])


def total(report: Report) -> list[str]:
    """The line that sums up several targets."""
    if len(report.targets) < 2:
        return []
    found = _count_words(report.findings)
    failed = sum(target.status == "failed" for target in report.targets)
    line = f"{len(report.targets)} targets: {found or 'no findings'}"
    return [line + (f"; {failed} could not be checked" if failed else "")]


def _count_words(findings: Sequence[Finding]) -> str:
    rows = counts(findings).items()
    return ", ".join(f"{n} {word}{'s' if n > 1 and word != 'info' else ''}" for word, n in rows if n)


def _inputs(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    shown = [f"{row['dtype']}[{','.join(map(str, row['shape']))}]" for row in rows]
    named = [f"{row['name']} {text}" if len(rows) > 1 else text for row, text in zip(rows, shown, strict=True)]
    origin = str(rows[0]["from"])
    link = "" if origin.startswith(("inferred", "from ")) else "from "
    return clean(f"input {', '.join(named)} {link}{origin}")


def _numbers(target: TargetReport) -> str:
    rows = [(target.rules, "rule"), (target.ops, "op")]
    parts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in rows if n]
    parts += [f"on {clean(target.device)}"] if target.device != "cpu" else []
    if target.cached:
        parts.append("unchanged since an earlier run")
    elif target.seconds:
        parts.append(f"{sum(target.seconds.values()):.1f} s")
    return ", ".join(parts)


def _details(target: TargetReport, look: Look) -> list[str]:
    """What `-v` adds: parameters, time per stage, the rules that did not run, and the signal by depth."""
    from bnlint.report.profile import profile_lines

    lines = [f"  {target.parameters:,} parameters"] if target.parameters else []
    if target.seconds:
        lines.append("  " + ", ".join(f"{clean(stage)} {s:.2f} s" for stage, s in target.seconds.items()))
    reasons: dict[str, list[str]] = {}
    for row in target.skipped_rules:
        reasons.setdefault(row["reason"], []).append(row["code"])
    lines += [clean(f"  skipped {', '.join(codes)}: {reason}") for reason, codes in reasons.items()]
    return lines + profile_lines(target.profile, look.width)


def _timings(target: TargetReport) -> list[str]:
    """What `--timings` adds: each stage, and the rules that took longest, with their part of the whole."""
    whole = sum(target.seconds.values()) or 1.0
    slowest = sorted(target.rule_seconds.items(), key=lambda row: (-row[1], row[0]))[:_SLOWEST]
    rows = [
        *((f"stage {clean(name)}", s) for name, s in target.seconds.items()),
        *((f"rule {c}", s) for c, s in slowest),
    ]
    return [f"  {name:<14} {seconds:8.3f} s {seconds / whole:4.0%}" for name, seconds in rows]
