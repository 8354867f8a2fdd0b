"""`bnlint init`: the layers of one model as a table for people and as a document for programs."""

from __future__ import annotations

import json
from typing import Any

from bnlint.job import Report, TargetReport
from bnlint.report.json import finding_values, plain
from bnlint.report.place import known_rules
from bnlint.report.text import clean, wrapped

_HEADERS = ("weight", "shape", "fan in/out", "mean", "std", "scheme", "behind", "wanted", "ratio", "fwd", "bwd")
_OUTPUT = ("predicted", "measured")
_LEGEND = (
    "wanted: the standard deviation that keeps the signal's scale behind the activation that feeds the layer, in "
    "brackets where a norm follows and the scale does not matter; ratio: std over wanted; fwd, bwd: the factor by "
    "which the layer and that activation multiply the second moment of the signal and of its gradient, 1 keeps it; "
    "predicted, measured: the standard deviation of the layer's output."
)
_NUMBER = {"type": ["number", "null"]}
_LAYER: dict[str, Any] = {
    "name": {"type": "string", "description": "The parameter."},
    "kind": {"type": "string", "description": "Its module's class."},
    "shape": {"type": "array", "items": {"type": "integer"}},
    "fan_in": {"type": "number", "description": "Inputs that a unit really sums over."},
    "fan_out": {"type": "number", "description": "Units that an input really reaches."},
    "mean": _NUMBER,
    "std": _NUMBER,
    "scheme": {"type": "string", "description": "The scheme that the values follow."},
    "behind": {"type": "string", "description": "The activation that feeds the layer; empty for none."},
    "normalised": {"type": "boolean", "description": "A norm follows: the scale does not matter."},
    "zero": {"type": "boolean", "description": "It ends a residual branch without a norm and should start at zero."},
    "wanted_std": {**_NUMBER, "description": "Null for a weight that no layer of the run uses by itself."},
    "gain": {**_NUMBER, "description": "std times the root of fan_in."},
    "ratio": {**_NUMBER, "description": "std over wanted_std."},
    "forward": {**_NUMBER, "description": "Factor of the signal's second moment."},
    "backward": {**_NUMBER, "description": "Factor of the gradient's second moment."},
    "predicted_std": {**_NUMBER, "description": "Of the output, from the weights."},
    "measured_std": {**_NUMBER, "description": "Of the output, by the probe."},
}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "bnlint init --json",
    "type": "object",
    "properties": {
        "version": {"const": 1},
        "target": {"type": "string"},
        "status": {"enum": ["ok", "partial", "failed"]},
        "input": {"type": "array", "items": {"type": "object"}},
        "device": {"type": "string"},
        "notes": {"type": "array", "items": {"type": "string"}},
        "layers": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": _LAYER,
                "required": list(_LAYER),
                "additionalProperties": False,
            },
        },
        "suggestion": {"type": "string", "description": "Python source of `init_weights`."},
        "findings": {"type": "array", "items": {"type": "object"}, "description": "Why there is no answer."},
    },
    "required": ["version", "target", "status", "input", "device", "notes", "layers", "suggestion", "findings"],
    "additionalProperties": False,
}


def document(report: TargetReport) -> str:
    """The JSON document; `SCHEMA` describes it."""
    rules = known_rules(Report([report]))
    values = {
        "version": 1,
        "target": report.target,
        "status": report.status,
        "input": report.input,
        "device": report.device,
        "notes": report.notes,
        "layers": report.layers,
        "suggestion": report.suggestion,
        "findings": [finding_values(finding, rules) for finding in report.findings],
    }
    return json.dumps(plain(values), indent=2, allow_nan=False)


def table(report: TargetReport, width: int = 100) -> str:
    """One row for each weight, and a legend."""
    if not report.layers:
        return f"{clean(report.target)} has no weights of two and more dimensions"
    shown = [name for name in _OUTPUT if any(row[f"{name}_std"] is not None for row in report.layers)]
    rows = [[*_row(row), *(_number(row[f"{name}_std"]) for name in shown)] for row in report.layers]
    right = [len(column) > 2 and column in (*_HEADERS[3:5], *_HEADERS[7:], *shown) for column in (*_HEADERS, *shown)]
    aligned = ["right" if flag else "left" for flag in right]
    from tabulate import tabulate  # slow to import, and `--help` does without

    text = tabulate(rows, (*_HEADERS, *shown), tablefmt="simple", disable_numparse=True, colalign=aligned)
    notes = [line for note in report.notes for line in wrapped(clean(note), width)]
    return "\n".join([text, "", *wrapped(_LEGEND, width), *notes])


def _row(row: dict[str, Any]) -> list[str]:
    wanted = _number(row["wanted_std"])
    free = row["normalised"]
    return [
        clean(row["name"]),
        "x".join(map(str, row["shape"])),
        f"{row['fan_in']:g}/{row['fan_out']:g}",
        _number(row["mean"], 1),
        _number(row["std"]),
        clean(row["scheme"]),
        clean(row["behind"]),
        f"({wanted})" if free and wanted else wanted,
        "" if free else _number(row["ratio"], 2),
        "" if free else _number(row["forward"], 2),
        "" if free else _number(row["backward"], 2),
    ]


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"
