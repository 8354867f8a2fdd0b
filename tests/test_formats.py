"""The formats for other programs: valid by their schemas and limits, and safe for whatever a model's author writes."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from bnlint.job import Report, TargetReport
from bnlint.report import FORMATS, render
from bnlint.report.github import summary
from bnlint.report.text import Look
from bnlint.rule import Finding, Location, Severity, engine_finding

SCHEMAS = Path(__file__).parent / "schemas"
NASTY = "x\x1b[31m]]><script>%0A::error::,|`\n\u202e](http://evil)"
FOUND = Finding(
    code="BN105",
    name="bias-before-norm",
    severity=Severity.WARNING,
    message="`net.conv` has a bias",
    help="pass `bias=False`",
    module_path="net.conv",
    modules=("net.conv", "net.conv2"),
    location=Location("models/my net.py", 14, 22, 14, 40),
    call=Location("models/my net.py", 30, 3),
    evidence={"ratio": float("nan"), "shape": (1, 2)},
    target="models/my net.py:Net",
)
REMARK = dataclasses.replace(
    FOUND, severity=Severity.INFO, module_path="b", modules=("b",), location=Location("a.py", 2)
)
ERROR = dataclasses.replace(
    FOUND, code="BN101", name="norm-rank-mismatch", severity=Severity.ERROR, location=Location("a.py", 3, 1, 5, 2)
)
NOWHERE = dataclasses.replace(FOUND, location=None, call=None, module_path="", modules=())
SILENCED = dataclasses.replace(FOUND, suppressed="models/my net.py:14: on purpose", module_path="c", modules=("c",))
KNOWN = dataclasses.replace(FOUND, suppressed="baseline", module_path="d", modules=("d",))
BAD = dataclasses.replace(
    FOUND, message=f"`{NASTY}` is off", help=NASTY, module_path=NASTY, modules=(NASTY,), target=NASTY
)
FAILED = dataclasses.replace(
    engine_finding("BN903", "the forward pass raises RuntimeError: no"), target="pkg.models:Net"
)
CASES = {
    "nothing": Report([]),
    "clean": Report([TargetReport("a.py:Net")]),
    "findings": Report(
        [
            TargetReport(
                "models/my net.py:Net",
                findings=[FOUND, FOUND, REMARK, NOWHERE, SILENCED, KNOWN],
                classes={"models/my net.py": [7]},
            ),
            TargetReport("a.py:Net", findings=[ERROR], seconds={"trace": 1.25}),
        ],
        baseline="bnlint-baseline.json",
    ),
    "nasty": Report([TargetReport(NASTY, findings=[BAD])]),
    "failed": Report([TargetReport("pkg.models:Net", "failed", findings=[FAILED])]),
}
MACHINE = tuple(name for name in FORMATS if name not in ("full", "table", "concise", "grouped", "statistics"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def official(name: str) -> Any:
    """A schema that its owners publish; `BNLINT_SCHEMAS` names a folder with copies."""
    folder = os.environ.get("BNLINT_SCHEMAS")
    if not folder:
        pytest.skip("BNLINT_SCHEMAS names no folder with the published schemas")
    return Path(folder, name)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_in_a_report_can_steer_what_reads_it(case: str, output_format: str) -> None:
    text = render(CASES[case], output_format, Look(suppressed=True))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    if output_format in ("github", "concise"):
        assert all(re.match(r"::(error|warning|notice) title=BN|\S.*: BN\d+ ", line) for line in text.splitlines())


@pytest.mark.parametrize("output_format", MACHINE)
def test_the_order_does_not_depend_on_that_of_the_findings(output_format: str) -> None:
    rows = [
        TargetReport(row.target, findings=row.findings[::-1], classes=row.classes, seconds=row.seconds)
        for row in CASES["findings"].targets
    ]
    assert render(Report(rows, CASES["findings"].baseline), output_format) == render(CASES["findings"], output_format)


@pytest.mark.parametrize("output_format", ["json", "json-lines", "sarif", "gitlab", "junit", "rdjson"])
def test_documents_survive_any_encoding_of_the_terminal(output_format: str) -> None:
    row = dataclasses.replace(FOUND, message="größe", module_path="größe.中", location=Location("größe.py", 1))
    text = render(Report([TargetReport("größe.py:Net", findings=[row])]), output_format)
    assert text.isascii()
    if output_format == "junit":
        assert "größe" in str(ElementTree.fromstring(text)[0].get("name"))


class TestSarif:
    def log(self, case: str) -> Any:
        return json.loads(render(CASES[case], "sarif"))

    @pytest.mark.parametrize("case", CASES)
    def test_schema(self, case: str) -> None:
        document = json.loads((SCHEMAS / "sarif-subset.json").read_text())
        jsonschema.Draft7Validator.check_schema(document)
        jsonschema.validate(self.log(case), document)

    @pytest.mark.parametrize("case", CASES)
    def test_the_published_schema(self, case: str) -> None:
        jsonschema.validate(self.log(case), json.loads(official("sarif-schema-2.1.0.json").read_text()))

    @pytest.mark.parametrize("case", CASES)
    def test_what_github_asks_for(self, case: str) -> None:
        (run,) = self.log(case)["runs"]
        rules = run["tool"]["driver"]["rules"]
        for rule in rules:
            assert 0 < len(rule["shortDescription"]["text"]) <= 1024
            assert 0 < len(rule["fullDescription"]["text"]) <= 1024
            assert rule["help"]["text"]
            assert len(rule["name"]) <= 255
            assert len(rule["properties"]["tags"]) <= 10
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            assert not re.match(r"/|\.|[a-z]+:", uri)
            assert " " not in uri
        prints = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
        assert len(set(prints)) == len(prints)

    def test_results(self) -> None:
        results = self.log("findings")["runs"][0]["results"]
        first, second = results[:2]
        assert (first["ruleId"], first["level"], second["level"], results[-1]["level"]) == (
            "BN101",
            "error",
            "warning",
            "note",
        )
        region = first["locations"][0]["physicalLocation"]["region"]
        assert region == {"startLine": 3, "startColumn": 1, "endLine": 5, "endColumn": 2}
        found = {row["locations"][0].get("logicalLocations", [{}])[0].get("fullyQualifiedName"): row for row in results}
        assert found["net.conv"]["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 30
        assert found[None]["locations"][0]["physicalLocation"]["region"]["startLine"] == 7  # of the target's class
        assert found["c"]["suppressions"] == [{"kind": "inSource", "justification": "models/my net.py:14: on purpose"}]
        assert found["d"]["suppressions"][0]["kind"] == "external"
        assert (found["d"]["baselineState"], found["net.conv"]["baselineState"]) == ("unchanged", "new")
        assert found["net.conv"]["properties"]["evidence"] == {"ratio": "nan", "shape": [1, 2]}

    def test_precision_follows_the_severity(self) -> None:
        rules = {
            row["id"]: row["properties"]["precision"]
            for row in self.log("findings")["runs"][0]["tool"]["driver"]["rules"]
        }
        assert rules == {"BN101": "very-high", "BN105": "medium"}
        for output_format in ("json", "json-lines"):
            text = render(CASES["findings"], output_format)
            rows = json.loads(text)["findings"] if output_format == "json" else map(json.loads, text.splitlines())
            assert {row["code"]: row["precision"] for row in rows} == rules  # of the rule, whatever the finding's is

    def test_a_failure_is_a_notification(self) -> None:
        (invocation,) = self.log("failed")["runs"][0]["invocations"]
        assert invocation["executionSuccessful"] is False
        assert invocation["toolExecutionNotifications"][0]["descriptor"] == {"id": "BN903"}
        assert self.log("findings")["runs"][0]["invocations"] == [{"executionSuccessful": True}]

    def test_the_help_is_the_rules_page(self) -> None:
        from bnlint.registry import load_rules

        rules = {row["id"]: row for row in self.log("findings")["runs"][0]["tool"]["driver"]["rules"]}
        assert rules["BN105"]["help"]["markdown"] == load_rules()["BN105"].doc()

    def test_fingerprints_do_not_move_with_the_code(self) -> None:
        moved = dataclasses.replace(FOUND, location=Location("models/my net.py", 99))
        logs = [json.loads(render(Report([TargetReport("a", findings=[row])]), "sarif")) for row in (FOUND, moved)]
        assert (
            len({log["runs"][0]["results"][0]["partialFingerprints"]["primaryLocationLineHash"] for log in logs}) == 1
        )

    def test_paths_start_at_the_repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
        result = self.log("findings")["runs"][0]["results"][0]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "sub/a.py"


class TestGithub:
    def lines(self, case: str) -> list[str]:
        return render(CASES[case], "github").splitlines()

    def test_errors_come_first_and_what_is_silenced_not_at_all(self) -> None:
        lines = self.lines("findings")
        assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::warning", "::warning", "::notice"]

    def test_a_command(self) -> None:
        error, warning = self.lines("findings")[0], next(line for line in self.lines("findings") if "line=14" in line)
        assert error.startswith("::error title=BN101 norm-rank-mismatch,file=a.py,line=3,endLine=5::")
        assert warning == (
            "::warning title=BN105 bias-before-norm,file=models/my net.py,line=14,col=22,endColumn=40::"
            "`net.conv` has a bias [net.conv and 1 more]%0Ahelp: pass `bias=False`"
        )

    def test_escaping(self) -> None:
        (line,) = self.lines("nasty")
        head, _, message = line[2:].partition("::")
        assert "%250A" in message
        assert message.count("%0A") == message.count("%0Ahelp: ") == 1
        assert re.fullmatch(r"warning title=[^:,]*,file=[^:,]*,line=14,col=22,endColumn=40", head)

    def test_the_summary_is_a_table_of_text(self) -> None:
        class Tags(html.parser.HTMLParser):
            tags = 0

            def handle_starttag(self, tag: str, attrs: object) -> None:
                self.tags += 1

        for case, rows in (("findings", 5), ("nasty", 1), ("failed", 1), ("clean", 0)):
            text, tags = summary(CASES[case]), Tags()
            tags.feed(text)
            lines = [line for line in text.splitlines() if line.startswith("|")]
            assert (tags.tags, max(len(lines) - 2, 0)) == (0, rows)
            assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} <= {5}
        assert summary(CASES["findings"]).startswith("### bnlint: 1 error, 3 warning, 1 info\n")
        assert "1 could not be checked" in summary(CASES["failed"])

    def test_a_long_summary_is_cut(self) -> None:
        many = Report([TargetReport("a.py:Net", findings=[FOUND] * 600)])
        assert "and 100 more" in summary(many)


class TestGitlab:
    @pytest.mark.parametrize("case", CASES)
    def test_required_fields(self, case: str) -> None:
        rows = json.loads(render(CASES[case], "gitlab"))
        for row in rows:
            assert row.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
            assert row["severity"] in ("info", "minor", "major", "critical", "blocker")
            assert re.fullmatch("[0-9a-f]{32}", row["fingerprint"])
            assert not row["location"]["path"].startswith(("./", "/"))
            assert row["location"]["lines"]["begin"] >= 1
        assert len({row["fingerprint"] for row in rows}) == len(rows)

    def test_what_is_silenced_is_left_out(self) -> None:
        rows = json.loads(render(CASES["findings"], "gitlab"))
        assert [row["severity"] for row in rows] == ["critical", "major", "major", "major", "info"]
        assert rows[0]["description"].startswith("BN101 norm-rank-mismatch: ")

    def test_paths_start_at_the_project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        monkeypatch.setenv("CI_PROJECT_DIR", str(tmp_path))
        assert json.loads(render(CASES["findings"], "gitlab"))[0]["location"]["path"] == "sub/a.py"


class TestJunit:
    @pytest.mark.parametrize("case", CASES)
    def test_counts(self, case: str) -> None:
        root = ElementTree.fromstring(render(CASES[case], "junit").encode())
        for suite in root:
            assert suite.tag == "testsuite"
            for key, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
                assert int(suite.get(key, "")) == len(suite.findall(tag))
        for key in ("tests", "failures", "errors"):
            assert int(root.get(key, "")) == sum(int(suite.get(key, "")) for suite in root)

    def test_what_is_a_failure(self) -> None:
        def kinds(case: str) -> list[str]:
            root = ElementTree.fromstring(render(CASES[case], "junit"))
            return [child.tag for case in root.iter("testcase") for child in case] or [
                row.get("name", "") for row in root.iter("testcase")
            ]

        assert sorted(kinds("findings")) == ["failure"] * 4 + ["system-out"]
        assert (kinds("failed"), kinds("clean"), kinds("nothing")) == (["error"], ["no findings"], [])

    @pytest.mark.parametrize("case", CASES)
    def test_the_published_schema(self, case: str) -> None:
        etree = pytest.importorskip("lxml.etree")
        for name in ("junit-10.xsd",):
            schema = etree.XMLSchema(etree.parse(str(official(name))))
            schema.assertValid(etree.fromstring(render(CASES[case], "junit").encode()))


class TestRdjson:
    @pytest.mark.parametrize("case", CASES)
    def test_fields(self, case: str) -> None:
        document = json.loads(render(CASES[case], "rdjson"))
        assert document["source"] == {"name": "bnlint"}
        for row in document["diagnostics"]:
            assert row.keys() == {"message", "severity", "code", "location"}
            assert row["severity"] in ("ERROR", "WARNING", "INFO")
            assert row["location"]["range"]["start"]["line"] >= 1

    @pytest.mark.parametrize("case", CASES)
    def test_the_published_schema(self, case: str) -> None:
        schema = json.loads(official("DiagnosticResult.json").read_text())
        jsonschema.validate(json.loads(render(CASES[case], "rdjson")), schema)

    def test_columns_count_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "net.py").write_text("größe = 1\nö = ä + x\n", encoding="utf-8")
        row = dataclasses.replace(FOUND, location=Location(str(tmp_path / "net.py"), 2, 5, 2, 6))
        (found,) = json.loads(render(Report([TargetReport("a", findings=[row])]), "rdjson"))["diagnostics"]
        assert found["location"]["range"] == {"start": {"line": 2, "column": 6}, "end": {"line": 2, "column": 8}}

    def test_ranges(self) -> None:
        rows = json.loads(render(CASES["findings"], "rdjson"))["diagnostics"]
        assert rows[0]["location"]["range"] == {"start": {"line": 3, "column": 1}, "end": {"line": 5, "column": 2}}
        assert rows[-1]["location"]["range"] == {"start": {"line": 2}}


def test_json_lines_are_the_reports_findings() -> None:
    for case in CASES.values():
        rows = [json.loads(line) for line in render(case, "json-lines").splitlines()]
        assert rows == json.loads(render(case, "json"))["findings"]


def test_statistics() -> None:
    assert render(CASES["findings"], "statistics", Look(quiet=True)).splitlines() == [
        "3  warning[BN105] bias-before-norm in 1 of 2 targets",
        "1  error[BN101] norm-rank-mismatch in 1 of 2 targets",
        "1  info[BN105] bias-before-norm in 1 of 2 targets",
    ]
    assert render(CASES["findings"], "statistics", Look(quiet=True, suppressed=True)).startswith("5  warning[BN105]")
    assert render(CASES["clean"], "statistics") == ""


def test_grouped_by_file() -> None:
    text = render(CASES["findings"], "grouped")
    heads = [line for line in text.splitlines() if re.fullmatch(r"\S.*\.py:", line)]
    assert heads == ["a.py:", "models/my net.py:"]
    assert "   2:1  info[BN105] bias-before-norm: " not in text.split("models/my net.py:")[1].split("\n\n")[0]
    assert "  3:1  error[BN101] norm-rank-mismatch: " in text
    assert render(CASES["clean"], "grouped") == "a.py:Net: no findings"


@pytest.mark.parametrize("case", CASES)
def test_the_notebook_shows_a_table_of_text(case: str) -> None:
    class Tags(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.seen.append(tag)
            assert attrs == []

    tags = Tags()
    tags.feed(CASES[case]._repr_html_())
    assert set(tags.seen) <= {"div", "table", "thead", "tbody", "tr", "th", "td", "p", "br"}
    assert tags.seen.count("td") == 6 * len(CASES[case].findings)
