"""The signal by depth, for people to look at: spread and gradient along the path that all data takes."""

from __future__ import annotations

import math
from typing import Any

from bnlint.graph.model import AuditedModel
from bnlint.graph.ops import WEIGHT_LAYERS, Kind
from bnlint.signal.describe import label
from bnlint.signal.trunk import RESAMPLING, RESETS, trunk

_KINDS = {**dict.fromkeys(WEIGHT_LAYERS, "layer"), Kind.NORM: "norm", Kind.ADD: "skip"}


def profile(model: AuditedModel) -> list[dict[str, Any]]:
    """A row for every layer, norm and skip: spread over that of the first layer, gradient over the last hidden one's.

    What pools take off the spread is given back until the next norm: samples that were averaged look alike in any
    network. The output layer has no gradient here: its norm says more about the loss than about the depth.
    """
    graph, probe = model.graph, model.probe
    assert graph is not None and probe is not None
    rows: list[dict[str, Any]] = []
    before, pooled = None, 1.0
    for node in trunk(graph):
        kind, found = _KINDS.get(graph.kind(node)), probe.stats.get(node.name)
        if found is None or found.spread is None:
            continue
        if graph.kind(node) in RESAMPLING and before and found.spread:
            pooled *= found.spread / before
        elif graph.kind(node) in RESETS:
            pooled = 1.0
        before = found.spread
        if kind is not None and (kind != "skip" or graph.residual_branch(node) is not None):
            gradient = None if graph.is_last_layer(node) else found.gradient
            spread = found.spread / pooled
            rows.append({"name": label(model, node), "kind": kind, "spread": spread, "gradient": gradient})
    first = _first([row["spread"] for row in rows if row["kind"] == "layer"])
    last = _first([row["gradient"] for row in reversed(rows) if row["kind"] != "norm"])
    return [{**row, "spread": _over(row["spread"], first), "gradient": _over(row["gradient"], last)} for row in rows]


def _first(values: list[float | None]) -> float | None:
    return next((value for value in values if value is not None and math.isfinite(value) and value > 0), None)


def _over(value: float | None, unit: float | None) -> float | None:
    """The ratio; 0 stays 0, and what is not a finite number is None."""
    if value is None or unit is None or not math.isfinite(value):
        return None
    return float(f"{value / unit:.4g}")
