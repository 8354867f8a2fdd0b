"""One cause, one finding.

Equal findings about layers built and called by the same code become one with a list, and a finding yields to that of a
rule which names its cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bnlint.rule import Finding

_NOTED = 4  # findings of a group whose own words are shown


def grouped(findings: list[Finding]) -> list[Finding]:
    """The findings, equal ones joined.

    Where no line is known (a model passed as an object), findings with the same words are equal.
    """
    groups: dict[Any, list[Finding]] = {}
    for f in findings:
        where = (f.location, f.call) if f.location else f.message
        key = (f.code, f.severity, where) if f.module_path else id(f)
        groups.setdefault(key, []).append(f)
    return [_joined(rows[0], rows[1:]) for rows in groups.values()]


def settled(findings: Sequence[Finding], yields: Mapping[str, Sequence[str]]) -> list[Finding]:
    """The findings without those that another one explains; `yields` has, by code, the rules that a rule yields to.

    What is left takes over the highest severity and says in its note what it stands for.
    """
    causes = {
        id(f): next((g for g in findings if g.code in yields.get(f.code, ()) and _is_one_matter(f, g)), None)
        for f in findings
    }
    explained: dict[int, list[Finding]] = {}
    for f in findings:
        cause = f
        while (further := causes[id(cause)]) is not None:
            cause = further
        if cause is not f:
            explained.setdefault(id(cause), []).append(f)
    return [_standing_for(f, explained.get(id(f), [])) for f in findings if causes[id(f)] is None]


def _is_one_matter(found: Finding, cause: Finding) -> bool:
    """True for two findings about the same ops, or modules, unless their ratios are on different sides of 1."""
    one, other = (found.nodes, cause.nodes) if found.nodes and cause.nodes else (found.modules, cause.modules)
    rises = [f.evidence["ratio"] > 1 if "ratio" in f.evidence else None for f in (found, cause)]
    return bool(set(one) & set(other) - {""}) and (None in rises or rises[0] == rises[1])


def _standing_for(cause: Finding, others: Sequence[Finding]) -> Finding:
    if not others:
        return cause
    names = ", ".join(f"{code} {name}" for code, name in sorted({(f.code, f.name) for f in others}))
    severity = max((f.severity for f in (cause, *others)), key=lambda level: level.rank)
    return replace(cause, severity=severity, note="\n".join(filter(None, (cause.note, f"the cause of {names}"))))


def _joined(first: Finding, others: list[Finding]) -> Finding:
    """`first` with the modules of equal findings; where the numbers of the next few differ they go into the note."""
    notes = [first.note] if first.note else []
    for other in others[: _NOTED - 1]:
        if other.message != first.message:
            help = f"; {other.help}" if other.help != first.help else ""
            notes.append(f"`{other.module_path}`: {other.message}{help}")
    rows = (first, *others)
    modules = tuple(dict.fromkeys(path for f in rows for path in f.modules))
    nodes = tuple(name for f in rows for name in f.nodes)
    return replace(first, modules=modules, nodes=nodes, note="\n".join(notes))
