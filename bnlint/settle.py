"""From what was found to what is reported: comments, the selection, configured severities and ignores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bnlint.baseline import Baseline, judged, portable, silence, stale, stale_finding
from bnlint.config import Chosen
from bnlint.config.files import shown_path
from bnlint.job import Report, TargetReport
from bnlint.paths import real
from bnlint.rule import Rule
from bnlint.suppress import suppress


@dataclass(frozen=True)
class Checked:
    """What came of one target, and what was to be reported of it."""

    row: TargetReport
    chosen: Chosen
    comments: bool = True  # whether comments count


def settle(
    found: Sequence[Checked],
    rules: Mapping[str, type[Rule]],
    known: Baseline | None = None,
    *,
    whole: bool = False,
    complete: bool = False,
) -> Report:
    """The report, without what comments, the configuration and the baseline silence.

    `whole` says that nothing configured was left out, so that a comment can be called unused; `complete` that what is
    configured was checked and nothing else, so that a target which the baseline knows and the report lacks is gone.
    """
    rows = [replace(each.row, findings=list(each.row.findings), ran=_ran(each)) for each in found]
    ran = {row.target: set(row.ran) for row in rows}
    suppress([row for row, each in zip(rows, found, strict=True) if each.comments], rules, ran, whole=whole)
    rows = [_settled(row, each.chosen) for row, each in zip(rows, found, strict=True)]
    if known is None:
        return Report(rows)
    _put_stale(known, rows, complete)
    return Report([_settled(row, each.chosen) for row, each in zip(rows, found, strict=True)], shown_path(known.file))


def _put_stale(known: Baseline, rows: Sequence[TargetReport], complete: bool) -> None:
    """Silences known findings, and adds BN910 for those that are gone."""
    ran = judged(rows, known.file)
    places = {portable(row.target, real(known.file).parent): row for row in rows}
    for entry in stale(silence(known, rows), ran, complete=complete) if rows else ():
        places.get(entry.target, rows[0]).findings.append(stale_finding(known, entry))


def _ran(each: Checked) -> list[str]:
    """The codes of the rules that ran on a target."""
    skipped = {row["code"] for row in each.row.skipped_rules}
    return [] if each.row.status == "failed" else [code for code in each.chosen.rules if code not in skipped]


def _settled(row: TargetReport, chosen: Chosen) -> TargetReport:
    """The report with only what was selected, each finding with its target and its configured severity."""
    found = [
        replace(
            f,
            target=f.target or row.target,
            severity=chosen.severity.get(f.code, f.severity),
            suppressed=f.suppressed or chosen.ignored(f),
        )
        for f in row.findings
        if f.code in chosen.codes
    ]
    return replace(row, findings=found)
