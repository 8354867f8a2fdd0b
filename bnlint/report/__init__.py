"""The output formats, one file each; every one is a pure function `render(report, look) -> str`."""

from __future__ import annotations

import importlib

from bnlint.job import Report
from bnlint.report.text import Look

FORMATS = (
    "full",
    "table",
    "concise",
    "grouped",
    "json",
    "json-lines",
    "sarif",
    "github",
    "gitlab",
    "junit",
    "rdjson",
    "statistics",
)


def render(report: Report, output_format: str = "full", look: Look | None = None) -> str:
    """The report as text in one of `FORMATS`, without a final newline."""
    name = output_format.replace("-", "_")
    module = importlib.import_module(f"bnlint.report.{name}")  # so that only `table` pays for tabulate
    return str(module.render(report, look or Look()))
