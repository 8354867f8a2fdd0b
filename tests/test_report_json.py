from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from bnlint.job import Report, TargetReport
from bnlint.report import render
from bnlint.rule import Finding, Location, Severity

FC = Finding(
    code="XX201",
    name="some-mismatch",
    severity=Severity.ERROR,
    message="`fc` takes 16 features but gets 32",
    module_path="block.fc",
    modules=("block.fc",),
    location=Location("net.py", 8, 19, 8, 36),
    call=Location("net.py", 11),
    target="net.py:Net",
)


def report_of(*findings: Finding, **facts: object) -> Report:
    return Report([TargetReport("net.py:Net", findings=list(findings), **facts)])  # type: ignore[arg-type]


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "tool", "targets", "findings", "summary"],
    "properties": {
        "version": {"const": 1},
        "tool": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "version", "torch", "python"],
            "properties": {"name": {"const": "bnlint"}, "version": {}, "torch": {}, "python": {"type": "string"}},
        },
        "targets": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    "target",
                    "status",
                    "input",
                    "device",
                    "ops",
                    "parameters",
                    "seconds",
                    "cached",
                    "skipped_rules",
                ],
                "properties": {
                    "target": {"type": "string"},
                    "status": {"enum": ["ok", "partial", "failed"]},
                    "input": {"type": "array", "items": {"required": ["name", "shape", "dtype", "from"]}},
                    "device": {"type": "string"},
                    "ops": {"type": "integer"},
                    "parameters": {"type": "integer"},
                    "seconds": {"type": "object", "additionalProperties": {"type": "number"}},
                    "cached": {"type": "boolean"},
                    "skipped_rules": {"type": "array", "items": {"required": ["code", "reason"]}},
                },
            },
        },
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    *["target", "code", "name", "severity", "message", "help", "note", "module_path", "modules"],
                    *["file", "line", "column", "end_line", "end_column", "call_file", "call_line", "evidence"],
                    *["fingerprint", "suppressed", "url", "precision"],
                ],
                "properties": {
                    **{key: {"type": "string"} for key in ["target", "code", "name", "message", "help", "note"]},
                    **{key: {"type": "string"} for key in ["module_path", "fingerprint"]},
                    **{key: {"type": ["string", "null"]} for key in ["file", "call_file", "suppressed", "url"]},
                    **{key: {"type": ["integer", "null"], "minimum": 1} for key in ["line", "column"]},
                    **{key: {"type": ["integer", "null"]} for key in ["end_line", "end_column", "call_line"]},
                    "severity": {"enum": ["error", "warning", "info"]},
                    "precision": {"enum": ["very-high", "high", "medium", "low"]},
                    "modules": {"type": "array", "items": {"type": "string"}},
                    "evidence": {"type": "object"},
                },
            },
        },
        "summary": {
            "type": "object",
            "additionalProperties": False,
            "required": ["error", "warning", "info"],
            "properties": {key: {"type": "integer"} for key in ["error", "warning", "info"]},
        },
    },
}


def test_json_has_the_documented_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bare = Finding(code="BN904", name="untraced-part", severity=Severity.INFO, message="m", target="net.py:Net")
    deep = dataclasses.replace(FC, location=Location(str(tmp_path / "net.py"), 8, 19, 8, 36), suppressed="known")
    spec = {"name": "x", "shape": [8, 3], "dtype": "float32", "from": "--input"}
    report = report_of(bare, FC, deep, input=[spec], seconds={"import": 1.0}, ops=3)
    document = json.loads(render(report, "json"))
    jsonschema.validate(document, SCHEMA)
    assert document["summary"] == {"error": 1, "warning": 0, "info": 1}
    assert [row["code"] for row in document["findings"]] == ["XX201", "XX201", "BN904"]
    first = document["findings"][0]
    assert (first["line"], first["column"], first["end_line"], first["end_column"]) == (8, 19, 8, 36)
    assert {row["file"] for row in document["findings"]} == {"net.py", None}
    assert [row["url"] for row in document["findings"]] == [None, None, "docs/rules/index.md"]
    assert [row["suppressed"] for row in document["findings"]].count("known") == 1


def test_json_holds_numbers_that_json_lacks() -> None:
    finding = dataclasses.replace(FC, evidence={"ratio": float("inf"), "rows": (float("nan"), 1.5), "at": Path("x")})
    evidence = json.loads(render(report_of(finding), "json"), parse_constant=pytest.fail)["findings"][0]["evidence"]
    assert evidence == {"ratio": "inf", "rows": ["nan", 1.5], "at": "x"}


def test_two_runs_differ_only_in_the_seconds() -> None:
    first, second = (json.loads(render(report_of(FC, seconds={"trace": s}), "json")) for s in (1.0, 2.0))
    assert first != second
    for document in (first, second):
        document["targets"][0].pop("seconds")
    assert json.dumps(first) == json.dumps(second)


def test_findings_are_sorted_over_all_targets() -> None:
    info = dataclasses.replace(FC, severity=Severity.INFO)
    early = dataclasses.replace(FC, location=Location("net.py", 2, 1))
    targets = [TargetReport("net.py:Net", findings=[info, FC]), TargetReport("net.py:Net", findings=[early])]
    rows = json.loads(render(Report(targets), "json"))["findings"]
    assert [(row["severity"], row["line"]) for row in rows] == [("error", 2), ("error", 8), ("info", 8)]


def test_paths_outside_the_working_directory_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    outside = dataclasses.replace(FC, location=Location(str(tmp_path / "net.py"), 1), call=Location("sub/net.py", 2))
    row = json.loads(render(report_of(outside), "json"))["findings"][0]
    assert (row["file"], row["call_file"]) == ((tmp_path / "net.py").as_posix(), "sub/net.py")
