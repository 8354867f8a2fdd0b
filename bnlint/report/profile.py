"""The signal by depth as text: one line a layer, a logarithmic axis, the healthy band shaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnlint.report.text import clean

BAND = (0.05, 20.0)  # of the spread after the first layer, and of the gradient at the last
_ROWS, _NAME, _DECADES = 24, 30, 15
_MARKS = {"layer": " ", "norm": "N", "skip": "+"}

Row = Mapping[str, Any]


def profile_lines(rows: Sequence[Row], width: int) -> list[str]:
    """The picture: `o` is the spread across samples, `x` the gradient, `8` both, `.` the healthy band."""
    rows = _picked(rows)
    values = [row[key] for row in rows for key in ("spread", "gradient") if row[key]]
    if len(values) < 3:
        return []
    low, high = _decades(values)
    name = min(_NAME, max(len(clean(row["name"])) for row in rows))
    cells = max(21, min(61, width - name - 30))
    head = f"  {'signal':<{name + 4}} {_axis(low, high, cells)}    spread  gradient"
    lines = [head, *(_line(row, name, low, high, cells) for row in rows)]
    return [
        *lines,
        "  o spread across samples over that of the first layer, x gradient over that of the last hidden one, 8 both",
        "  . healthy, N norm, + skip",
    ]


def _picked(rows: Sequence[Row]) -> list[Row]:
    """At most so many rows as fit on a screen, the first and the last among them."""
    if len(rows) <= _ROWS:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (_ROWS - 1))] for i in range(_ROWS)]


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return max(min(low, -2), -_DECADES), min(max(high, 2), _DECADES)


def _cell(value: float, low: int, high: int, cells: int) -> int:
    """The column of a value; what lies outside stands at the edge."""
    at = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
    return round(min(max(at, 0.0), 1.0) * (cells - 1))


def _axis(low: int, high: int, cells: int) -> str:
    """The ends of the axis and its 1."""
    text = list(f"1e{low}".ljust(cells))
    one, end = _cell(1.0, low, high, cells), f"1e{high}"
    text[one] = "1"
    text[cells - len(end) :] = end
    return "".join(text)


def _line(row: Row, name: int, low: int, high: int, cells: int) -> str:
    start, end = (_cell(limit, low, high, cells) for limit in BAND)
    strip = ["." if start <= i <= end else " " for i in range(cells)]
    for key, mark in (("spread", "o"), ("gradient", "x")):
        if row[key] is not None:
            at = _cell(row[key], low, high, cells)
            strip[at] = "8" if strip[at] == "o" else mark
    label = clean(row["name"])
    label = label if len(label) <= name else "..." + label[len(label) - name + 3 :]
    numbers = f"{_number(row['spread'])} {_number(row['gradient'])}"
    return f"  {label:<{name}} {_MARKS[row['kind']]} |{''.join(strip)}| {numbers}"


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.2g}':>9}"
