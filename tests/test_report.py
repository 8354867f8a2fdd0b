from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlint.job import Report, TargetReport
from bnlint.report import FORMATS, render
from bnlint.report.text import Look, clean, columns
from bnlint.rule import Finding, Location, Severity

HOSTILE = "x\x1b[31m]]><script>\u202eevil\u2066\x07\r\n::error::\x9b2J"
SOURCE = """\
import torch.nn as nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.bn1(x))
"""
FC = Finding(
    code="XX201",
    name="some-mismatch",
    severity=Severity.ERROR,
    message="`fc` takes 16 features but gets 32",
    help="write `nn.Linear(32, 10)`",
    note="the input comes from `bn1`",
    module_path="block.fc",
    modules=("block.fc", "block.fc2", "block.fc3"),
    location=Location("net.py", 8, 19, 8, 36),
    call=Location("net.py", 11),
    evidence={"expected": 16, "found": 32},
    target="net.py:Net",
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report_of(*findings: Finding, **facts: object) -> Report:
    return Report([TargetReport("net.py:Net", findings=list(findings), **facts)])  # type: ignore[arg-type]


def full(finding: Finding, **look: object) -> list[str]:
    return render(report_of(finding), "full", Look(quiet=True, **look)).split("\n")  # type: ignore[arg-type]


def caret_text(lines: list[str]) -> str:
    """What the caret of a full report underlines, by terminal column."""
    row = next(i for i, line in enumerate(lines) if re.fullmatch(r" *\| *\^+", line))
    start = columns(lines[row][: lines[row].index("^")])
    end, at, shown = start + lines[row].count("^"), 0, ""
    for character in lines[row - 1]:
        shown += character if start <= at < end else ""
        at += columns(character)
    return shown


def test_full_block() -> None:
    assert full(FC) == [
        "error[XX201] some-mismatch: `fc` takes 16 features but gets 32",
        " --> net.py:8:19  (block.fc, 2 more: block.fc2, block.fc3)",
        "  |",
        "7 |         self.bn1 = nn.BatchNorm2d(64)",
        "8 |         self.fc = nn.Linear(16, 10)",
        "  |                   ^^^^^^^^^^^^^^^^^",
        "  |",
        "  = called at net.py:11",
        "note: the input comes from `bn1`",
        "help: write `nn.Linear(32, 10)`",
    ]


def test_the_gutter_is_as_wide_as_the_line_number(project: Path) -> None:
    (project / "long.py").write_text("\n" * 98 + "a = 1\nb = 2\n")
    lines = full(dataclasses.replace(FC, location=Location("long.py", 100, 1, 100, 2), call=None, note="", help=""))
    assert lines[1:] == [
        "   --> long.py:100:1  (block.fc, 2 more: block.fc2, block.fc3)",
        "    |",
        " 99 | a = 1",
        "100 | b = 2",
        "    | ^",
    ]


@pytest.mark.parametrize(
    ("line", "span"),
    [
        ("\tself.fc = nn.Linear(16, 10)", "nn.Linear(16, 10)"),
        ("x\ty\t= nn.Linear(16, 10)", "nn.Linear(16, 10)"),
        ("s = '層層層'; fc = nn.Linear(16, 10)", "nn.Linear(16, 10)"),
        ("s = 'e\u0301'; fc = nn.Linear(16, 10)", "nn.Linear(16, 10)"),
        ("s = '\x1b[31m'; fc = nn.Linear(16, 10)", "nn.Linear(16, 10)"),
        ("fc = nn.Linear('層', 10)", "nn.Linear('層', 10)"),
    ],
)
def test_the_caret_stands_under_its_text(project: Path, line: str, span: str) -> None:
    (project / "net.py").write_text(f"# first\n{line}\n", encoding="utf-8")
    start = line.index(span) + 1
    at = Location("net.py", 2, start, 2, start + len(span))
    assert caret_text(full(dataclasses.replace(FC, location=at))) == span


@pytest.mark.parametrize(
    ("at", "span"),
    [
        (Location("net.py", 8), "self.fc = nn.Linear(16, 10)"),  # no columns: the line
        (Location("net.py", 8, 19), "n"),
        (Location("net.py", 8, 19, 11, 3), "nn.Linear(16, 10)"),  # several lines: the first
        (Location("net.py", 8, 19, 8, 999), "nn.Linear(16, 10)"),
    ],
)
def test_spans_without_an_end_on_the_line(at: Location, span: str) -> None:
    assert caret_text(full(dataclasses.replace(FC, location=at))) == span


@pytest.mark.parametrize("file", ["gone.py", "<ipython-input-1>", "nul\0.py"])
def test_without_source_the_place_is_still_named(file: str) -> None:
    lines = full(dataclasses.replace(FC, location=Location(file, 3, 1, 3, 2)))
    assert lines[1].startswith(f" --> {clean(file)}:3:1")
    assert not any("^" in line for line in lines)


def test_a_line_beyond_the_end_of_the_file() -> None:
    lines = full(dataclasses.replace(FC, location=Location("net.py", 400, 1)))
    assert lines[1].startswith("   --> net.py:400:1")
    assert not any("^" in line for line in lines)


def test_an_edited_file_is_read_again(project: Path) -> None:
    assert caret_text(full(FC)) == "nn.Linear(16, 10)"
    (project / "net.py").write_text(SOURCE.replace("Linear(16", "Linear(8"))
    assert "nn.Linear(8, 10)" in caret_text(full(FC))


def test_without_a_construction_line_the_call_is_the_place() -> None:
    lines = full(dataclasses.replace(FC, location=None, call=Location("net.py", 11, 16)))
    assert lines[1].startswith("  --> net.py:11:16")
    assert not any("called at" in line for line in lines)


def test_without_any_line_the_target_is_the_place() -> None:
    assert full(dataclasses.replace(FC, location=None, call=None))[1].startswith("  --> net.py:Net")


def test_a_call_on_the_construction_line_is_not_repeated() -> None:
    lines = full(dataclasses.replace(FC, call=Location("net.py", 8, 30)))
    assert not any("called at" in line for line in lines)


def test_long_lists_are_shortened() -> None:
    names = tuple(f"layers.{i}.fc" for i in range(50))
    place = full(dataclasses.replace(FC, module_path=names[0], modules=names))[1]
    assert "49 more: layers.1.fc, layers.2.fc, layers.3.fc, ..." in place
    assert "layers.4.fc" not in place


def test_help_is_wrapped_and_the_snippet_is_not() -> None:
    finding = dataclasses.replace(FC, help="word " * 40)
    lines = full(finding, width=60)
    assert all(len(line) <= 60 for line in lines if line.startswith(("help:", "      ")))
    assert sum(line.startswith(("help:", "      ")) for line in lines) > 3
    assert "8 |         self.fc = nn.Linear(16, 10)" in lines


@pytest.mark.parametrize("output_format", ["full", "table"])
def test_code_is_not_broken_over_lines(output_format: str) -> None:
    call = "`nn.Conv2d(16, 16, kernel_size=3, padding=1)`"
    for before in range(40):
        text = f"{'x' * before} use {call} or {call}, please"
        finding = dataclasses.replace(FC, message=text, help=text)
        shown = render(report_of(finding), output_format, Look(width=70))
        assert shown.count(call) == (4 if output_format == "full" else 2)


def test_indented_lines_of_a_note_keep_their_shape() -> None:
    finding = dataclasses.replace(FC, note="the import fails\n  File net.py, line 3\n    " + "x = " * 40)
    lines = full(finding, width=60)
    at = lines.index("note: the import fails")
    assert lines[at + 1] == "        File net.py, line 3"
    assert lines[at + 2].strip() == ("x = " * 40).strip()


def test_summary_counts_and_facts() -> None:
    shape = {"name": "x", "shape": [8, 3, 32, 32], "dtype": "float32", "from": "inferred from the first layer"}
    warning = dataclasses.replace(FC, severity=Severity.WARNING)
    report = report_of(FC, FC, warning, input=[shape], rules=14, ops=57, seconds={"import": 1.5, "trace": 0.4})
    assert (
        "Found 2 errors, 1 warning in net.py:Net "
        "(input float32[8,3,32,32] inferred from the first layer; 14 rules, 57 ops, 1.9 s)"
    ) in render(report).split("\n")


def test_a_clean_target_says_so_in_one_line() -> None:
    assert render(report_of(rules=14, ops=57, seconds={"import": 1.0})) == (
        "net.py:Net: no findings (14 rules, 57 ops, 1.0 s)"
    )


@pytest.mark.parametrize("output_format", ["full", "table"])
def test_notes_and_failures_are_said(output_format: str) -> None:
    partial = report_of(FC, status="partial", notes=["probe skipped: the forward pass fails"])
    assert "  probe skipped: the forward pass fails" in render(partial, output_format).split("\n")
    assert "Could not check net.py:Net: 1 error" in render(report_of(FC, status="failed"), output_format)


def test_several_targets_have_a_total_and_keep_their_order() -> None:
    targets = [TargetReport(name) for name in ("b.py:Net", "a.py:Net", "c.py:Net")]
    targets[1].findings = [dataclasses.replace(FC, target="a.py:Net")]
    targets[2].status = "failed"
    text = render(Report(targets))
    assert text.index("b.py:Net") < text.index("a.py:Net") < text.index("c.py:Net")
    assert "3 targets: 1 error; 1 could not be checked" in text.split("\n")


def test_verbose_says_what_did_not_run() -> None:
    report = report_of(
        skipped_rules=[{"code": c, "reason": "no probe"} for c in ("XX601", "XX602")], seconds={"a": 1.0}
    )
    assert "XX601" not in render(report)
    assert "  skipped XX601, XX602: no probe" in render(report, look=Look(verbose=True)).split("\n")


def test_timings_name_the_slowest_rules() -> None:
    report = report_of(seconds={"trace": 3.0, "rules": 1.0}, rule_seconds={f"XX{n}": n / 1000 for n in range(101, 108)})
    lines = [line.split() for line in render(report, look=Look(timings=True)).split("\n")]
    assert ["stage", "trace", "3.000", "s", "75%"] in lines
    assert [line[1] for line in lines if line[0] == "rule"] == ["XX107", "XX106", "XX105", "XX104", "XX103"]
    assert "stage" not in render(report)


def test_concise_is_one_parseable_line() -> None:
    assert render(report_of(FC), "concise") == (
        "net.py:8:19: XX201 error some-mismatch: `fc` takes 16 features but gets 32 [block.fc, 2 more]"
    )
    bare = dataclasses.replace(FC, location=Location("net.py", 8), module_path="", modules=())
    assert render(report_of(bare), "concise").startswith("net.py:8:1: XX201 error")
    assert render(report_of(bare), "concise").endswith("gets 32")


def test_table_follows_the_module_path_in_natural_order() -> None:
    paths = ["layers.10.fc", "layers.9.fc", "head"]
    found = [dataclasses.replace(FC, module_path=path, modules=(path,)) for path in paths]
    rows = render(report_of(*found), "table", Look(quiet=True)).split("\n")
    assert [row.split()[2] for row in rows[2:]] == ["head", "layers.9.fc", "layers.10.fc"]
    assert rows[0].split() == ["severity", "code", "module", "where", "message"]


def test_table_cells_are_text_even_if_they_look_like_numbers() -> None:
    finding = dataclasses.replace(FC, module_path="1e5", modules=("1e5",))
    assert "1e5" in render(report_of(finding), "table")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_table_wraps_messages_to_the_terminal(width: int) -> None:
    finding = dataclasses.replace(FC, message="word " * 30, modules=("block.fc",))
    rows = render(report_of(finding), "table", Look(quiet=True, width=width)).split("\n")
    assert max(map(len, rows)) <= max(width, 80)
    assert len(rows) > 3


@pytest.mark.parametrize("output_format", FORMATS)
def test_nothing_in_a_name_reaches_the_terminal_raw(output_format: str) -> None:
    Path("net.py").write_bytes((SOURCE + f"y = '{HOSTILE}'\n").encode())
    finding = Finding(
        code="XX201",
        name="some-mismatch",
        severity=Severity.ERROR,
        message=HOSTILE,
        help=HOSTILE,
        note=HOSTILE,
        module_path=HOSTILE,
        modules=(HOSTILE, HOSTILE + "2"),
        location=Location(HOSTILE + ".py", 1, 1),
        call=Location(HOSTILE, 2),
        evidence={HOSTILE: HOSTILE},
        target=HOSTILE,
    )
    shown = dataclasses.replace(finding, location=Location("net.py", 13, 1))
    spec = {"name": HOSTILE, "shape": [1], "dtype": HOSTILE, "from": HOSTILE}
    target = TargetReport(
        HOSTILE,
        input=[spec, spec],
        device=HOSTILE,
        seconds={HOSTILE: 1.0},
        skipped_rules=[{"code": "XX1", "reason": HOSTILE}],
        notes=[HOSTILE],
        findings=[finding, shown, dataclasses.replace(finding, location=None, call=None)],
    )
    text = render(Report([target, target]), output_format, Look(verbose=True, timings=True))
    allowed = set("\n") | {c for c in text if c.isprintable()}
    assert set(text) - allowed == set()
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x80-\x9f]", text)
    commands = [line for line in text.split("\n") if line.startswith("::")]
    ours = [line for line in commands if output_format == "github" and line.startswith("::error title=XX201 ")]
    assert commands == ours
    assert "script" in text or output_format == "statistics"  # which counts and names nothing


@given(st.text())
def test_clean_text_is_printable_and_on_one_line(text: str) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", clean(text))
    assert len(clean(text).splitlines()) <= 1
    clean(text).encode()


@pytest.mark.parametrize("output_format", ["full", "table", "concise"])
def test_colour_only_adds_to_the_text(output_format: str) -> None:
    plain, colored = (render(report_of(FC), output_format, Look(color=on)) for on in (False, True))
    assert "\x1b[" in colored
    assert "\x1b[" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain


@pytest.mark.parametrize("output_format", FORMATS)
def test_decorations_are_ascii(output_format: str) -> None:
    assert render(report_of(FC), output_format).isascii()


@pytest.mark.parametrize("output_format", FORMATS)
def test_an_empty_run_renders(output_format: str) -> None:
    text = render(Report(), output_format)
    empty = {"json": '"findings": []', "sarif": '"results": []', "gitlab": "[]", "junit": "<testsuites", "rdjson": "[]"}
    assert empty[output_format] in text if output_format in empty else text == ""


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_same_report_renders_to_the_same_text(output_format: str) -> None:
    other = dataclasses.replace(FC, code="XX105", severity=Severity.INFO)
    shown = [render(report_of(*rows), output_format) for rows in ((FC, other), (other, FC))]
    assert shown[0] == shown[1]


def test_suppressed_findings_are_not_shown_to_people() -> None:
    hidden = dataclasses.replace(FC, suppressed="known")
    assert render(report_of(hidden), "concise") == ""
    assert "no findings" in render(report_of(hidden))
