"""Comments that silence findings: which lines they speak of, and what is said of those that do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnlint.job import TargetReport
from bnlint.rule import Finding, Location, Phase, Rule, Severity, engine_finding
from bnlint.suppress import suppress

ROOT = Path(__file__).resolve().parents[1]
SOURCE = """\
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Sequential(
            nn.Linear(4, 4),
        )

    def forward(self, x):
        return self.b(self.a(x))


class Other(nn.Module):
    pass
"""


def rule(code: str, name: str) -> type[Rule]:
    return type(name, (Rule,), {"code": code, "name": name, "severity": Severity.ERROR, "phase": Phase.GRAPH})


RULES = {"XX101": rule("XX101", "own-rule"), "XX102": rule("XX102", "other-rule")}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finding(line: int, end: int | None = None, call: int | None = None, code: str = "XX101") -> Finding:
    return Finding(
        code=code,
        name="own-rule",
        severity=Severity.WARNING,
        message="m",
        location=Location("net.py", line, 1, end, 5),
        call=Location("net.py", call) if call else None,
    )


def source(*comments: tuple[int, str]) -> None:
    """The file with comments at the end of lines, or, for a line given as negative, on a line of their own above it."""
    lines = SOURCE.split("\n")
    for line, text in sorted(comments, key=lambda row: -abs(row[0])):
        if line > 0:
            lines[line - 1] += f"  {text}"
        else:
            lines.insert(-line - 1, f"        {text}")
    Path("net.py").write_text("\n".join(lines))


def found(
    *findings: Finding, ran: str = "XX101 XX102", whole: bool = True, classes: tuple[int, ...] = (4,)
) -> list[Finding]:
    row = TargetReport("net.py:Net", findings=list(findings), classes={"net.py": list(classes)})
    suppress([row], RULES, {row.target: set(ran.split())}, whole=whole)
    return row.findings


@pytest.mark.parametrize(
    ("at", "silenced"),
    [
        (7, {"constructed", "both"}),  # the line that builds it
        (13, {"called", "both"}),  # the line that calls it
        (4, {"constructed", "called", "both", "several lines"}),  # its class
        (8, {"several lines"}),  # the first and the last line of a call
        (10, {"several lines"}),
        (9, set()),  # another layer's line inside it
        (16, set()),  # another class
        (5, set()),
        (-7, {"constructed", "both"}),  # alone above it
        (-4, {"constructed", "called", "both", "several lines"}),
    ],
)
def test_which_lines_a_comment_speaks_of(at: int, silenced: set[str]) -> None:
    shift = 1 if at < 0 else 0
    source((at, "# bnlint: ignore[XX101] because"))
    places = {
        "constructed": finding(7 + shift),
        "called": finding(30, call=13 + shift),
        "both": finding(7 + shift, call=13 + shift),
        "several lines": finding(8 + shift, 10 + shift),
    }
    rows = found(*places.values(), whole=False)
    assert {name for name, row in zip(places, rows, strict=True) if row.suppressed} == silenced
    if silenced:
        assert {row.suppressed for row in rows if row.suppressed} == {f"net.py:{abs(at)}: because"}


@pytest.mark.parametrize(
    "comment",
    [
        "# bnlint: ignore[XX101]",
        "#bnlint:ignore[xx101]",
        "# bnlint: ignore[own-rule]",
        "# bnlint: ignore[XX102, own-rule] why",
        "# noqa: E501  # bnlint: ignore[XX101] why  # type: ignore",
        "# bnlint: file-ignore[XX101]",
    ],
)
def test_the_forms(comment: str) -> None:
    source((7, comment))
    (row,) = [row for row in found(finding(7), ran="XX101") if row.code == "XX101"]
    assert row.suppressed is not None
    assert "#" not in row.suppressed


def test_a_string_is_no_comment() -> None:
    source((7, '; "# bnlint: ignore[XX101]"'))
    assert found(finding(7))[0].suppressed is None


def test_another_code_stays() -> None:
    source((7, "# bnlint: ignore[XX102]"))
    assert [row.suppressed for row in found(finding(7), whole=False)] == [None]


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("# bnlint: ignore", "names no rule"),
        ("# bnlint: ignore[]", "names no rule"),
        ("# bnlint: ignored[XX101]", "names no rule"),
        ("# bnlint: XX101", "names no rule"),
        ("# bnlint: ignore[XX10l]", "did you mean `XX10"),
        ("# bnlint: ignore[own-rul]", "did you mean `own-rule`"),
        ("# bnlint: ignore[ALL]", "no rule `ALL`"),
        ("# bnlint: ignore[BN903]", "cannot be ignored"),
    ],
)
def test_a_comment_that_cannot_work_is_reported(comment: str, words: str) -> None:
    source((7, comment))
    failed = engine_finding("BN903", "no")
    rows = found(finding(7), failed, whole=False)
    assert [row.code for row in rows] == ["XX101", "BN903", "BN908"]
    assert [row.suppressed for row in rows] == [None] * 3
    assert words in rows[2].message
    assert rows[2].location is not None
    assert (rows[2].location.line, rows[2].location.column) == (7, 35)


class TestUnused:
    def codes(self, **options: object) -> list[tuple[str, int]]:
        rows = found(finding(7), **options)  # type: ignore[arg-type]
        return [(row.code, row.location.line) for row in rows if row.code == "BN907" and row.location]

    def test_it_is_reported_where_it_stands(self) -> None:
        source((7, "# bnlint: ignore[XX101]"), (13, "# bnlint: ignore[XX101]"))
        assert self.codes() == [("BN907", 13)]

    def test_one_of_two_codes(self) -> None:
        source((7, "# bnlint: ignore[XX101, XX102]"))
        assert self.codes() == [("BN907", 7)]

    def test_not_when_the_rule_did_not_run(self) -> None:
        source((13, "# bnlint: ignore[XX102]"))
        assert self.codes(ran="XX101") == []

    def test_not_when_only_a_part_was_checked(self) -> None:
        source((13, "# bnlint: ignore[XX101]"))
        assert self.codes(whole=False) == []

    def test_not_in_a_class_that_was_not_built(self) -> None:
        source((16, "# bnlint: ignore[XX101]"))
        assert self.codes() == []
        assert self.codes(classes=(4, 16)) == [("BN907", 16)]

    def test_one_for_the_file_is_judged_by_all_classes(self) -> None:
        source((1, "# bnlint: file-ignore[XX102]"))
        assert self.codes() == []
        assert self.codes(classes=(4, 16)) == [("BN907", 1)]

    def test_what_another_target_needs_is_used(self) -> None:
        source((7, "# bnlint: ignore[XX101]"))
        rows = [
            TargetReport(f"net.py:{n}", findings=f, classes={"net.py": [4]})
            for n, f in (("A", []), ("B", [finding(7)]))
        ]
        suppress(rows, RULES, {row.target: {"XX101"} for row in rows}, whole=True)
        assert [[f.code for f in row.findings] for row in rows] == [[], ["XX101"]]


@pytest.mark.parametrize("text", ["# bnlint: ignore[XX101]\n(", "# bnlint: ignore[XX101]\n\x00", "\udcff"])
def test_a_file_that_is_not_python_is_left_alone(text: str) -> None:
    Path("net.py").write_text(text, errors="surrogateescape")
    assert [row.code for row in found(finding(2))] == ["XX101"]


@pytest.mark.slow
def test_the_command(here: Path) -> None:
    (here / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 8, 3)  # bnlint: ignore[bias-before-norm] the old weights have it\n"
        "        self.norm = nn.BatchNorm2d(8)\n\n"
        "    def forward(self, x):\n        return self.norm(self.conv(x)).relu()  # bnlint: ignore[BN101]\n"
    )

    def command(*options: str) -> tuple[int, dict[str, tuple[str | None, int]], str]:
        words = [sys.executable, "-m", "bnlint", "check", "net.py:Net", "--select", "BN105,BN101", *options]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=120, check=False)
        rows = json.loads(done.stdout)["findings"] if "json" in options else []
        return done.returncode, {row["code"]: (row["suppressed"], row["line"]) for row in rows}, done.stdout

    code, rows, _ = command("--output-format", "json")
    assert (code, rows) == (1, {"BN105": ("net.py:7: the old weights have it", 7), "BN907": (None, 11)})
    code, rows, _ = command("--output-format", "json", "--no-inline-ignores")
    assert rows == {"BN105": (None, 7)}
    assert "BN105" not in command("--output-format", "concise")[2]
    assert "(suppressed: net.py:7: the old weights have it)" in command("--show-suppressed")[2]
