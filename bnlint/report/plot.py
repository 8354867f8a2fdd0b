"""The signal by depth as a picture, with matplotlib; imported only when `--plot` asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnlint.job import Report, TargetReport
from bnlint.report.profile import BAND

SUFFIXES = (".svg", ".png")
_COLORS = {"spread": "tab:blue", "gradient": "tab:orange"}
_WORDS = {"spread": "spread across samples / first layer", "gradient": "gradient / last hidden layer"}
_LABELS = 40  # layers whose names are written below the axis


def plot(report: Report, file: Path) -> None:
    """Writes a panel for every target that was probed; raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = [target for target in report.targets if target.profile]
    with matplotlib.rc_context({"svg.hashsalt": "bnlint", "font.size": 9}):
        figure, axes = pyplot.subplots(
            max(1, len(targets)), 1, squeeze=False, figsize=(10, 4.2 * max(1, len(targets))), layout="constrained"
        )
        for axis, target in zip(axes[:, 0], targets, strict=False):
            _panel(axis, target)
        if not targets:
            axes[0, 0].text(0.5, 0.5, "nothing was probed", ha="center")
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, metadata=metadata, dpi=120)
        pyplot.close(figure)


def _panel(axis: Any, target: TargetReport) -> None:
    rows = target.profile
    axis.set_yscale("log")
    axis.axhspan(*BAND, color="tab:green", alpha=0.12, label=f"healthy: {BAND[0]:g} to {BAND[1]:g}")
    for key in ("spread", "gradient"):
        _curve(axis, rows, key)
    for kind, mark, words in (("norm", "s", "norm"), ("skip", "P", "skip")):
        at = [i for i, row in enumerate(rows) if row["kind"] == kind and row["spread"]]
        if at:
            axis.plot(at, [rows[i]["spread"] for i in at], mark, color="black", markersize=4, ls="none", label=words)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 1e-2), max(high, 1e2))
    axis.set_title(target.target, loc="left")
    axis.set_xlabel("depth")
    if len(rows) <= _LABELS:
        axis.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=60, ha="right", fontsize=7)
        axis.set_xlabel("")
    axis.legend(loc="best", fontsize=8)


def _curve(axis: Any, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """One curve on the log axis; a value of exactly zero stands at the bottom as a triangle."""
    at = [i for i, row in enumerate(rows) if row[key]]
    axis.plot(at, [rows[i][key] for i in at], ".-", color=_COLORS[key], lw=1.2, markersize=4, label=_WORDS[key])
    zeros = [i for i, row in enumerate(rows) if row[key] == 0]
    if zeros:
        bottom = axis.get_xaxis_transform()
        axis.plot(zeros, [0.02] * len(zeros), "v", color=_COLORS[key], markersize=5, transform=bottom)
