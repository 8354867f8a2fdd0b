"""Findings that are known and wait: a file of them, one a line, by code, target and module path.

None of the three moves when code above does. A new finding in another module is new, however many old ones were fixed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bnlint.config import Config, ConfigError
from bnlint.config.files import shown_path
from bnlint.job import TargetReport
from bnlint.paths import real
from bnlint.rule import ENGINE_CODES, Finding, Location, Place, engine_finding
from bnlint.target import TargetError, parse

NAME = "bnlint-baseline.json"
KNOWN = "baseline"  # what a finding that the baseline silences says of it
_VERSION = 1


class Entry(NamedTuple):
    """What tells a finding from others; the target's path starts at the folder of the baseline."""

    target: str
    code: str
    module: str


@dataclass(frozen=True)
class Baseline:
    """How many findings there are of each entry; `lines` says where an entry stands in the file."""

    file: Path
    entries: Mapping[Entry, int]
    lines: Mapping[Entry, int] = field(default_factory=dict)

    def entries_of(self, row: TargetReport, finding: Finding) -> list[Entry]:
        """The entries of a finding, one for each of its modules; bnlint's own words have none."""
        if finding.code in ENGINE_CODES:
            return []
        target = portable(row.target, real(self.file).parent)
        return [Entry(target, finding.code, module) for module in finding.modules or (finding.module_path,)]


def read(file: Path) -> Baseline:
    """The baseline in a file; raises ConfigError when it is none."""
    try:
        text = file.read_text(encoding="utf-8")
        document = json.loads(text)
        if document["version"] != _VERSION:
            raise ConfigError(f"the baseline `{shown_path(file)}` is of version {document['version']}, not {_VERSION}")
        found = {_entry(row): row.get("count", 1) for row in document["entries"]}
        if not all(isinstance(part, str) for entry in found for part in entry):
            raise ValueError("an entry has a value that is no string")
        if not all(type(count) is int and count > 0 for count in found.values()):
            raise ValueError("a count is no whole number above zero")
    except OSError as error:
        help = "`bnlint baseline write` writes one"
        raise ConfigError(f"cannot read the baseline `{shown_path(file)}` ({error.strerror}); {help}") from error
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ConfigError(f"`{shown_path(file)}` is not a baseline of bnlint: {reason}") from error
    return Baseline(file, found, dict(_lines(text, found)))


def text(entries: Mapping[Entry, int]) -> str:
    """The file's text: sorted, one entry a line, so that two branches merge."""
    rows = []
    for entry in sorted(entry for entry, count in entries.items() if count > 0):
        row = {"code": entry.code, "target": entry.target, "module": entry.module}
        row |= {"count": entries[entry]} if entries[entry] > 1 else {}  # type: ignore[dict-item]
        rows.append(f"    {json.dumps(row, ensure_ascii=False)}")
    body = "[\n" + ",\n".join(rows) + "\n  ]" if rows else "[]"
    return f'{{\n  "version": {_VERSION},\n  "entries": {body}\n}}\n'


def found_in(baseline: Baseline, rows: Iterable[TargetReport]) -> Counter[Entry]:
    """How many findings that nothing else silences there are of each entry."""
    return Counter(entry for row in rows for finding in row.findings for entry in _entries(baseline, row, finding))


def silence(baseline: Baseline, rows: Sequence[TargetReport]) -> Counter[Entry]:
    """Marks the findings that are in the baseline, and returns the entries that are left over.

    A finding about several modules is known when all of them are.
    """
    left = Counter(baseline.entries)
    for row in rows:
        findings = []
        for finding in row.findings:
            entries = _entries(baseline, row, finding)
            known = bool(entries) and all(left[entry] > 0 for entry in entries)
            if known:
                left -= Counter(entries)
            findings.append(replace(finding, suppressed=KNOWN) if known else finding)
        row.findings = findings
    return left


def judged(rows: Iterable[TargetReport], file: Path) -> dict[str, set[str]]:
    """The codes of the rules that ran, by target as in the baseline."""
    return {portable(row.target, real(file).parent): set(row.ran) for row in rows}


def location(config: Config, told: str | None = None) -> tuple[Path, bool]:
    """Where the baseline is, and whether somebody says so: an option, the configuration, else a file beside it."""
    if told:
        return Path(told), True
    named = config.values.get("baseline")
    return config.root / (named or NAME), named is not None


def in_use(config: Config, told: str | None = None) -> Baseline | None:
    """The baseline to check with: one that is named must be there, the default one may be."""
    file, named = location(config, told)
    return read(file) if named or file.is_file() else None


def stale(left: Mapping[Entry, int], ran: Mapping[str, set[str]], *, complete: bool) -> list[Entry]:
    """The entries left over that would have been found again, were they still true.

    `ran` holds the codes of the rules that ran, by target as in the baseline. Only when `complete`, when the whole
    configuration was checked, is a target that was not among them gone.
    """

    def judged(entry: Entry) -> bool:
        return entry.code in ran[entry.target] if entry.target in ran else complete

    return sorted(entry for entry, count in left.items() if count > 0 and judged(entry))


def stale_finding(baseline: Baseline, entry: Entry) -> Finding:
    """BN910 for an entry, at its line in the file."""
    module = f" in `{entry.module}`" if entry.module else ""
    message = f"the baseline has {entry.code}{module} of `{entry.target}`, which is not found any more"
    at = Location(shown_path(baseline.file), baseline.lines.get(entry, 1))
    return engine_finding("BN910", message, help="`bnlint baseline prune` removes it", place=Place("", at))


def portable(target: str, root: Path) -> str:
    """The target as it is called from the folder `root`."""
    try:
        parsed = parse(target)
    except TargetError:
        return target
    path = real(parsed.path or Path())
    if parsed.path is None or not path.is_relative_to(root):
        return target
    return path.relative_to(root).as_posix() + parsed.text.removeprefix(parsed.place)


def _entries(baseline: Baseline, row: TargetReport, finding: Finding) -> list[Entry]:
    return [] if finding.suppressed else baseline.entries_of(row, finding)


def _entry(row: Mapping[str, str]) -> Entry:
    return Entry(row["target"], row["code"], row["module"])


def _lines(text: str, entries: Mapping[Entry, int]) -> Iterator[tuple[Entry, int]]:
    """The line of each entry that stands on a line of its own."""
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line.strip().rstrip(","))
            entry = _entry(row)
        except (ValueError, KeyError, TypeError):
            continue
        if entry in entries:
            yield entry, number
