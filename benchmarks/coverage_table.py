"""The Markdown table of `coverage.py`."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

BROKEN = ("not built", "not runnable")  # by themselves, without bnlint
PACKAGES = ("bnlint", "torch", "torchvision", "timm", "transformers")
_INTRODUCTION = (
    "Public models, built with random weights and checked with `bnlint check --static`, each in a process of its own",
    "with a limit of 120 s of processor time. Made by `benchmarks/coverage.py`; `benchmarks/README.md` says how.",
    "",
)
_TERMS = (
    "Models that do not build, or whose own forward pass fails on the input written down for them, are not counted.",
    "*untold*: ok without `--input`. Seconds are of processor time, on one core, after the start of Python.",
    "",
)


@dataclass(frozen=True)
class Row:
    """What came of one model."""

    corpus: str
    name: str
    status: str  # ok, partial, failed, crash, timeout; not built, not runnable
    ops: int
    seconds: float
    input: str  # where it came from; "given" when bnlint had to be told
    reason: str = ""

    @property
    def counted(self) -> bool:
        """False for a model that fails by itself."""
        return self.status not in BROKEN


def table(rows: Iterable[Row], missing: Iterable[str] = (), note: str = "") -> str:
    """The whole page."""
    rows = sorted(rows, key=lambda row: (row.corpus, row.name))
    corpora = list(dict.fromkeys(row.corpus for row in rows))
    return "\n".join(line.rstrip() for line in _lines(rows, corpora, missing, note)) + "\n"


def _lines(rows: list[Row], corpora: list[str], missing: Iterable[str], note: str) -> Iterator[str]:
    yield "# Coverage"
    yield ""
    yield from _INTRODUCTION
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    yield f"{datetime.date.today().isoformat()}, {versions}, Python {platform.python_version()}."
    yield from ["", note] if note else []
    for reason in missing:
        yield f"Not measured: {reason}."
    yield ""
    yield from _TERMS
    yield "| corpus | models | counted | ok | untold | partial | failed | crash | timeout | median | slowest |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for corpus in corpora:
        yield _totals(corpus, [row for row in rows if row.corpus == corpus])
    if len(corpora) > 1:
        yield _totals("all", rows)
    yield ""
    yield "## Not ok"
    yield ""
    for row in (row for row in rows if row.status != "ok"):
        yield f"- {row.corpus} `{row.name}`: {row.status}. {_cell(row.reason)}"
    for corpus in corpora:
        yield ""
        yield f"## {corpus}"
        yield ""
        yield "| model | status | ops | seconds | input | remark |"
        yield "|---|---|---|---|---|---|"
        for row in (row for row in rows if row.corpus == corpus):
            cells = (f"`{row.name}`", row.status, row.ops, row.seconds, row.input, _cell(row.reason))
            yield "| " + " | ".join(map(str, cells)) + " |"


def _totals(name: str, rows: list[Row]) -> str:
    counted = [row for row in rows if row.counted]
    ok = [row for row in counted if row.status == "ok"]
    untold = sum(row.input != "given" for row in ok)
    others = [sum(row.status == status for row in rows) for status in ("partial", "failed", "crash", "timeout")]
    seconds = sorted(row.seconds for row in rows) or [0.0]
    cells = [len(rows), len(counted), _share(len(ok), len(counted)), _share(untold, len(counted)), *others]
    return "| " + " | ".join(map(str, (name, *cells, seconds[len(seconds) // 2], seconds[-1]))) + " |"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)" if whole else "0"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
