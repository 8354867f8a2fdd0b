"""What the formats for other programs share: a finding's place, what identifies it, its text, how sure it is."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bnlint.job import Report, TargetReport, sort_findings
from bnlint.paths import real
from bnlint.registry import RegistryError, load_rules
from bnlint.report.text import Look, clean
from bnlint.rule import ENGINE_CODES, Finding, Location, Rule, Severity, State

_PRECISION = {Severity.ERROR: "very-high", Severity.WARNING: "high", Severity.INFO: "medium"}


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


def known_rules(report: Report) -> Mapping[str, type[Rule]]:
    """The rules that the report may speak of."""
    try:
        return load_rules(report.rule_paths)
    except RegistryError:  # the files may have changed since
        return load_rules()


def precision(code: str, rules: Mapping[str, type[Rule]]) -> str:
    """How often a rule is right, in SARIF's words: an error never guesses, a rule in preview may."""
    row = rules.get(code) or ENGINE_CODES.get(code)
    if row is None or (isinstance(row, type) and row.state is State.PREVIEW):
        return "low"
    return _PRECISION[row.severity]


def fails(finding: Finding) -> bool:
    """Whether it is more than a remark."""
    return finding.severity is not Severity.INFO


def _of_target(row: TargetReport) -> Location:
    for file, lines in row.classes.items():
        if row.target.startswith(file) or len(row.classes) == 1:
            return Location(file, lines[0])
    place = row.target.partition(":")[0]
    return Location(place if place.endswith(".py") else f"{place.replace('.', '/')}.py", 1)
