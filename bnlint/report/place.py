"""What the formats for other programs share: where a finding is shown, what identifies it, and its text."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bnlint.job import Report, TargetReport, sort_findings
from bnlint.paths import real
from bnlint.report.text import Look, clean
from bnlint.rule import Finding, Location, Severity


def findings(report: Report, look: Look | None = None, *, suppressed: bool = False) -> list[Finding]:
    """All findings, errors first, each with a location: where nothing else is known that of the target's class."""
    shown = suppressed or (look is not None and look.suppressed)
    rows = [
        replace(f, location=f.location or f.call or _of_target(target))
        for target in report.targets
        for f in target.findings
        if shown or f.suppressed is None
    ]
    return sort_findings(rows)


def identified(rows: list[Finding]) -> Iterator[tuple[Finding, str]]:
    """Each finding with a fingerprint that no other one has and that does not change when code moves."""
    seen: Counter[str] = Counter()
    for finding in rows:
        seen[finding.fingerprint] += 1
        yield finding, f"{finding.fingerprint}:{seen[finding.fingerprint]}"


def digest(text: str) -> str:
    """A text as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def path_in(file: str, root: str = "") -> str:
    """A file's path from the folder that the variable `root` names, else from here; elsewhere it stays absolute."""
    base = Path(os.environ.get(root) or Path.cwd()).resolve()
    path = real(file)
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def sentence(finding: Finding, *, module: bool = True) -> str:
    """The message, with the module it is about."""
    more = f" and {len(finding.modules) - 1} more" if len(finding.modules) > 1 else ""
    where = f" [{clean(finding.module_path)}{more}]" if module and finding.module_path else ""
    return clean(finding.message) + where


def fails(finding: Finding) -> bool:
    """Whether it is more than a remark."""
    return finding.severity is not Severity.INFO


def _of_target(row: TargetReport) -> Location:
    for file, lines in row.classes.items():
        if row.target.startswith(file) or len(row.classes) == 1:
            return Location(file, lines[0])
    place = row.target.partition(":")[0]
    return Location(place if place.endswith(".py") else f"{place.replace('.', '/')}.py", 1)
