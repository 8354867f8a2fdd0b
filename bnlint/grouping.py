"""One cause, one finding: equal findings about layers built and called by the same code become one with a list."""

from __future__ import annotations

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
