"""Callbacks that check a model once, before another library trains it. This file imports none of these libraries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from bnlint.api import check
from bnlint.job import Report
from bnlint.rule import ENGINE_CODES, Severity

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("bnlint")


class BrokenModel(RuntimeError):
    """Stops a training before it begins; the message is the report, which is also in `report`."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"bnlint found problems, so the training does not begin\n\n{report}")
        self.report = report


class Once:
    """Checks the model that it is first given, where it is, and leaves it as it was.

    Raises BrokenModel for findings at or above `fail_on`, `"never"` for none; what is less goes to the log, and so does
    that the check did not happen: that is no reason to stop a training. `options` are those of `bnlint.check`.
    """

    def __init__(self, inputs: Any = None, fail_on: str = "error", options: dict[str, Any] | None = None) -> None:
        self._threshold = None if fail_on == "never" else Severity(fail_on)
        self._inputs, self._options = inputs, dict(options or {})
        self.report: Report | None = None

    def __call__(self, model: torch.nn.Module, *, log: bool = True) -> None:
        """Does it the first time and nothing later; in all but one of several processes without a word in the log."""
        if self.report is not None:
            return
        first = next(model.parameters(), None)
        device = "cpu" if first is None or first.device.type == "meta" else str(first.device)
        self.report = check(model, self._inputs, **{"device": device, **self._options})
        found = [row for row in self.report.findings if row.code not in ENGINE_CODES]
        if self._threshold and any(row.severity.rank >= self._threshold.rank for row in found):
            raise BrokenModel(self.report)
        if log and not self.report.ok:
            _log.warning("%s", self.report)
