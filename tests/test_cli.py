"""The command line in this process, with the worker replaced; `test_cli_process.py` runs the real thing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnlint import worker
from bnlint.cli import main
from bnlint.job import Job, TargetReport
from bnlint.report import FORMATS
from bnlint.rule import Finding, Location, Severity, engine_finding
from tests.commands import OWN_RULE, Run

pytestmark = pytest.mark.usefixtures("jobs")
FINDING = Finding(
    code="XX101",
    name="own-rule",
    severity=Severity.WARNING,
    message="something is off",
    module_path="fc",
    modules=("fc",),
    location=Location("net.py", 2, 1),
)
CRASHED = engine_finding("BN909", "XX101 own-rule raised KeyError: 1")
BROKEN = engine_finding("BN903", "the forward pass raises RuntimeError: no")
SEVERITIES = ("error", "warning", "info")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "CI", "PRE_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "net.py").write_text("import torch\nfc = 1\n")
    (tmp_path / "own.py").write_text(OWN_RULE)
    monkeypatch.setenv("BNLINT_RULE_PATHS", "own.py")
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, *findings: Finding, status: str = "ok") -> None:
    monkeypatch.setattr(
        worker, "check", lambda job, **options: TargetReport(job.target, status, findings=list(findings))
    )


class TestExitCodes:
    @pytest.mark.parametrize("output_format", FORMATS)
    @pytest.mark.parametrize("fail_on", SEVERITIES)
    @pytest.mark.parametrize("severity", [*SEVERITIES, None])
    def test_threshold(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, output_format: str, fail_on: str, severity: str | None
    ) -> None:
        answer(monkeypatch, *([dataclasses.replace(FINDING, severity=Severity(severity))] if severity else []))
        expected = int(severity is not None and SEVERITIES.index(severity) <= SEVERITIES.index(fail_on))
        options = ("--fail-on", fail_on, "--output-format", output_format)
        assert run("check", "net.py:Net", *options)[0] == expected
        assert run("check", "net.py:Net", *options, "--exit-zero")[0] == 0

    @pytest.mark.parametrize("output_format", FORMATS)
    @pytest.mark.parametrize(
        ("finding", "status", "expected"), [(BROKEN, "failed", 2), (CRASHED, "ok", 2), (FINDING, "partial", 1)]
    )
    def test_a_check_that_did_not_happen(
        self,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        output_format: str,
        finding: Finding,
        status: str,
        expected: int,
    ) -> None:
        answer(monkeypatch, FINDING, finding, status=status)
        code, out, _ = run("check", "net.py:Net", "--output-format", output_format)
        assert code == expected
        assert finding.code in out
        kept = 2 if expected == 2 else 0
        assert run("check", "net.py:Net", "--output-format", output_format, "--exit-zero")[0] == kept

    def test_a_failure_cannot_be_ignored(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        answer(monkeypatch, BROKEN, status="failed")
        code, out, _ = run("check", "net.py:Net", "--ignore", "BN9", "--output-format", "concise")
        assert (code, "BN903" in out) == (2, True)

    def test_interrupted(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(job: Job, **options: Any) -> TargetReport:
            raise KeyboardInterrupt

        monkeypatch.setattr(worker, "check", interrupt)
        code, out, err = run("check", "net.py:Net")
        assert (code, out, err.strip()) == (130, "", "interrupted")

    def test_an_error_in_bnlint_is_a_sentence(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(job: Job, **options: Any) -> TargetReport:
            raise LookupError("odd\x1b[31m")

        monkeypatch.setattr(worker, "check", fail)
        code, out, err = run("check", "net.py:Net")
        assert (code, out) == (2, "")
        assert "LookupError: odd\\x1b[31m" in err
        assert main(["check", "net.py:Net", "--debug"]) == 2
        assert "Traceback" in capsys.readouterr().err


class TestUsage:
    @pytest.mark.parametrize(
        ("args", "hint"),
        [
            (["check"], "bnlint check models/net.py:Net"),
            (["chek", "net.py"], "bnlint check"),
            (["net.py:Net"], "bnlint check net.py:Net"),
            (["verison"], "bnlint version"),
            (["check", "--inptu", "8x3", "net.py:Net"], "--input"),
            (["check", "net.py:Net", "--output-format", "jsn"], "json"),
            (["check", "net.py:Net", "--fail-on", "fatal"], "error"),
            (["check", "net.py:Net", "--mode", "test"], "train"),
            (["check", "net.py:Net", "--select", "XX10l"], "XX101"),
            (["check", "net.py:Net", "--ignore", "own-rul"], "own-rule"),
            (["check", "net.py:Net", "--ignore", "ALL"], "no rule to run"),
            (["check", "net.py:Net", "--loss", "cross_entrpy"], "cross_entropy"),
            (["check", "net.py:Net", "--dtype", "float23"], "float32"),
            (["check", "net.py:Net", "--timeout", "0"], "--timeout"),
            (["check", "net.py:Net", "--autocast", "--input", "8x3x16x16"], "`--autocast` needs a value"),
            (["check", "net.py:Net", "--batch-size", "0"], "--batch-size"),
            (["check", "net.py:Net", "--memory-limit", "lots"], "2G"),
            (["check", "net.py:Net", "-q", "-v"], "exclude"),
            (["check", "net.py:Net", "--output-file", "no/such/folder/report.txt"], "no/such/folder"),
            (["check", "net.py:Net(width=os.sep)"], "literal"),
            (["check", "net.py:Net", "--rule-path", "gone.py"], "gone.py"),
            (["rule", "XX102"], "XX101"),
            (["rule", "own-rul"], "own-rule"),
            (["rule", "BN990"], "BN9"),
            (["rule"], "RULE"),
        ],
    )
    def test_a_mistake_is_one_error_and_exit_code_2(self, run: Run, args: list[str], hint: str) -> None:
        code, out, err = run(*args)
        assert (code, out) == (2, "")
        assert err.startswith("Error: ")
        assert hint in err
        assert len(err.strip().split("\n")) <= 2

    def test_what_the_user_typed_cannot_steer_the_terminal(self, run: Run) -> None:
        for args in (["\x1b[31m"], ["check", "--\x1b[31m"], ["check", "net.py:Net", "--select", "\x1b[31m"]):
            assert "\x1b" not in run(*args)[2]

    @pytest.mark.parametrize("args", [[], ["--help"], ["check", "--help"], ["check", "-h"], ["rules", "--help"]])
    def test_help(self, run: Run, args: list[str]) -> None:
        code, out, err = run(*args)
        assert code == (0 if args else 2)
        assert "Usage: bnlint" in out + err

    def test_options_are_under_headings(self, run: Run) -> None:
        out = run("check", "--help")[1]
        headings = [line for line in out.split("\n") if re.fullmatch(r"\w[\w ]*:", line)]
        assert headings == ["Input:", "Run:", "Rules:", "Configuration:", "Output:", "Other options:"]


class TestOptions:
    def test_they_reach_the_job(self, run: Run, jobs: list[Job]) -> None:
        args = "--input 8x3x32x32 --input mask=bool[8,4] --batch-size 4 --loss bce_with_logits --seed 7 --static"
        more = "--device cuda:1 --dtype float16 --mode eval --debug --isolated --no-isolate"
        run("check", "net.py:Net", *args.split(), *more.split())
        assert jobs == [
            Job(
                "net.py:Net",
                inputs=("8x3x32x32", "mask=bool[8,4]"),
                batch_size=4,
                loss="binary_cross_entropy_with_logits",
                seed=7,
                device="cuda:1",
                dtype="float16",
                mode="eval",
                static=True,
                select=jobs[0].select,
                rule_paths=("own.py",),
                debug=True,
            )
        ]

    def test_a_function_for_the_inputs_reaches_the_job(self, run: Run, jobs: list[Job]) -> None:
        run("check", "net.py:Net", "--input-fn", "f.py:make")
        assert (jobs[0].inputs, jobs[0].input_fn) == ((), "f.py:make")

    def test_limits_reach_the_worker(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}
        monkeypatch.setattr(worker, "check", lambda job, **options: seen.update(options) or TargetReport(job.target))
        run("check", "net.py:Net", "--timeout", "5", "--memory-limit", "512M", "--no-isolate")
        assert (seen["timeout"], seen["memory_limit"], seen["isolate"]) == (5.0, 512 << 20, False)

    def test_selection_reaches_the_job_as_codes(self, run: Run, jobs: list[Job]) -> None:
        run("check", "net.py:Net", "--select", "own-rule,BN904")
        assert jobs[0].select == ("XX101",)

    def test_options_from_the_environment(self, run: Run, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BNLINT_SEED", "11")
        monkeypatch.setenv("BNLINT_OUTPUT_FORMAT", "json")
        assert json.loads(run("check", "net.py:Net")[1])["version"] == 1
        assert jobs[0].seed == 11

    def test_what_is_not_selected_is_not_reported(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        note = engine_finding("BN904", "part of the model was not followed")
        answer(monkeypatch, FINDING, note)
        assert "BN904" in run("check", "net.py:Net", "--output-format", "concise")[1]
        code, out, _ = run("check", "net.py:Net", "--output-format", "concise", "--ignore", "BN904")
        assert (code, out.count("\n"), "BN904" in out) == (1, 1, False)

    def test_targets_keep_their_order_and_are_checked_once(self, run: Run, jobs: list[Job]) -> None:
        run("check", "b.py:Net", "a.py:Net", "b.py:Net")
        assert [job.target for job in jobs] == ["b.py:Net", "a.py:Net"]


class TestFiles:
    def test_a_file_gives_its_models_and_says_what_it_skips(
        self, run: Run, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = (["net.py:Net", "net.py:Other"], [("Block", "it is a part of Net"), ("Head", "it needs `width`")])
        monkeypatch.setattr(worker, "discover", lambda path, **options: found)
        _, out, err = run("check", "net.py", "--output-format", "json")
        assert [job.target for job in jobs] == ["net.py:Net", "net.py:Other"]
        assert [row["target"] for row in json.loads(out)["targets"]] == ["net.py:Net", "net.py:Other"]
        assert err.splitlines() == [
            "skipped net.py:Block: it is a part of Net",
            "skipped net.py:Head: it needs `width`",
        ]
        assert run("check", "net.py", "-q")[2] == ""

    @pytest.mark.parametrize("output_format", FORMATS)
    def test_nothing_to_check_is_one_line_and_exit_code_0(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, output_format: str
    ) -> None:
        monkeypatch.setattr(worker, "discover", lambda path, **options: ([], []))
        code, out, err = run("check", "net.py", "--output-format", output_format)
        assert (code, err) == (0, "no model to check in net.py\n")
        empty = {
            "gitlab": "[]",
            "junit": "testsuites",
            "json": '"targets": []',
            "sarif": '"results": []',
            "rdjson": "[]",
        }
        assert empty[output_format] in out if output_format in empty else out == ""

    def test_a_file_that_does_not_exist_is_the_workers_finding(self, run: Run, jobs: list[Job]) -> None:
        run("check", "gone.py")
        assert [job.target for job in jobs] == ["gone.py"]


class TestOutput:
    def test_output_file(self, run: Run, project: Path) -> None:
        code, out, _ = run("check", "net.py:Net", "--output-format", "concise", "--output-file", "report.txt")
        assert (code, out) == (1, "")
        assert (project / "report.txt").read_bytes() == (b"net.py:2:1: XX101 warning own-rule: something is off [fc]\n")

    def test_an_output_file_that_cannot_be_written(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(*args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "write_bytes", deny)
        code, _, err = run("check", "net.py:Net", "--output-file", "report.txt")
        assert code == 2
        assert "report.txt" in err

    def test_several_reports_of_one_run(self, run: Run, jobs: list[Job], project: Path) -> None:
        outputs = ("--output", "sarif:out.sarif", "--output", "concise", "--output", "junit:out.xml")
        code, out, err = run("check", "net.py:Net", *outputs)
        assert (code, err, len(jobs), out.count("\n")) == (1, "", 1, 1)
        assert json.loads((project / "out.sarif").read_text())["version"] == "2.1.0"
        assert (project / "out.xml").read_text().startswith("<?xml")
        assert sorted(path.name for path in project.iterdir() if path.suffix == ".tmp") == []

    def test_a_file_is_replaced_whole_or_not_at_all(
        self, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "out.txt").write_text("before")
        (project / "link.txt").symlink_to("out.txt")

        def stop(*args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stop)
            code, _, err = run("check", "net.py:Net", "--output", "concise:link.txt")
        assert (code, "No space left" in err, (project / "out.txt").read_text()) == (2, True, "before")
        assert sorted(project.glob(".*.tmp")) == []
        assert run("check", "net.py:Net", "--output", "concise:link.txt")[0] == 1
        assert (project / "link.txt").is_symlink()
        assert (project / "out.txt").read_text().startswith("net.py:2")

    @pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="this system has no /dev/fd")
    def test_a_pipe_can_be_written(self, run: Run) -> None:
        end, start = os.pipe()
        assert run("check", "net.py:Net", "--output", f"json-lines:/dev/fd/{start}")[0] == 1
        os.close(start)
        with os.fdopen(end) as pipe:
            assert json.loads(pipe.read())["code"] == "XX101"

    @pytest.mark.parametrize(
        ("variable", "value", "out"),
        [
            ("BNLINT_OUTPUT", "json:a.json concise", "net.py:2"),
            ("BNLINT_INPUT", "8X", ""),
            ("BNLINT_CONFIG", "output-format=concise", "net.py:2"),
            ("BNLINT_RULE_PATH", "gone", ""),
            ("BNLINT_QUIET", "1", "warning"),
        ],
    )
    def test_every_option_has_a_variable_of_its_name(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, out: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        code, text, _ = run("check", "net.py:Net")
        assert (code, text[: len(out)]) == ((1, out) if out else (2, ""))

    @pytest.mark.parametrize(
        ("options", "hint"),
        [
            (["--output", "sarf"], "did you mean `sarif`?"),
            (["--output", "full", "--output", "json"], "share the terminal"),
            (["--output", "json:a", "--output", "sarif:a"], "one file"),
            (["--output", "json:no/such/a"], "no/such"),
            (["--output", "json:."], "folder"),
            (["--output", "json", "--output-format", "json"], "exclude"),
            (["--output", "json", "--output-file", "a"], "exclude"),
        ],
    )
    def test_outputs_that_cannot_be(self, run: Run, jobs: list[Job], options: list[str], hint: str) -> None:
        code, out, err = run("check", "net.py:Net", *options)
        assert (code, out, hint in err, jobs) == (2, "", True, [])

    def test_the_summary_of_a_github_job(self, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (project / "summary.md").write_text("# before\n")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
        run("check", "net.py:Net")
        assert (project / "summary.md").read_text() == "# before\n"
        assert run("check", "net.py:Net", "--output", "github", "--output", "full:full.txt")[0] == 1
        assert (project / "summary.md").read_text().startswith("# before\n### bnlint: 1 warning\n")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/such/summary.md")
        assert run("check", "net.py:Net", "--output", "github")[0] == 2

    @pytest.mark.parametrize("output_format", FORMATS)
    def test_machine_formats_print_only_the_document(self, run: Run, output_format: str) -> None:
        _, out, err = run("check", "net.py:Net", "--output-format", output_format)
        assert err == ""
        assert out.endswith("\n") and not out.endswith("\n\n")
        assert "XX101" in out

    def test_quiet_is_only_findings(self, run: Run) -> None:
        assert "Found 1 warning" in run("check", "net.py:Net")[1]
        quiet = run("check", "net.py:Net", "-q")[1]
        assert "XX101" in quiet
        assert "Found" not in quiet

    @pytest.mark.parametrize(
        ("environment", "flag", "terminal", "colored"),
        [
            ({}, "auto", False, False),
            ({}, "auto", True, True),
            ({"TERM": "dumb"}, "auto", True, False),
            ({"NO_COLOR": "1"}, "auto", True, False),
            ({"NO_COLOR": ""}, "auto", True, True),
            ({"FORCE_COLOR": "1"}, "auto", False, True),
            ({"FORCE_COLOR": "0"}, "auto", False, False),
            ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, "auto", True, False),
            ({"NO_COLOR": "1"}, "always", False, True),
            ({"FORCE_COLOR": "1"}, "never", True, False),
        ],
    )
    def test_colour(
        self,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        environment: dict[str, str],
        flag: str,
        terminal: bool,
        colored: bool,
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        assert ("\x1b[" in run("check", "net.py:Net", "--color", flag)[1]) is colored

    def test_json_is_never_coloured(self, run: Run) -> None:
        assert "\x1b" not in run("check", "net.py:Net", "--color", "always", "--output-format", "json")[1]

    @pytest.mark.parametrize(
        ("terminal", "environment", "flags", "shown"),
        [
            (True, {}, [], True),
            (False, {}, [], False),
            (True, {"CI": "1"}, [], False),
            (True, {"PRE_COMMIT": "1"}, [], False),
            (True, {}, ["-q"], False),
        ],
    )
    def test_progress(
        self,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        terminal: bool,
        environment: dict[str, str],
        flags: list[str],
        shown: bool,
    ) -> None:
        def check(job: Job, on_stage: Callable[[str, str], None], **options: Any) -> TargetReport:
            on_stage(job.target, "import")
            on_stage("x" * 300 + "\x1b[31m", "trace")
            return TargetReport(job.target)

        monkeypatch.setattr(worker, "check", check)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        err = run("check", "net.py:Net", *flags)[2]
        assert ("loading torch" in err) is shown
        assert "\x1b" not in err
        if shown:
            lines = err.split("\r")
            assert max(map(len, lines)) < 100
            assert lines[-1] == "" and lines[-2].strip() == ""

    def test_a_console_that_lacks_the_characters(
        self, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        answer(monkeypatch, dataclasses.replace(FINDING, message="8 × 層 ≥ 3"))
        with (tmp_path / "console").open("w", encoding="cp1252") as console:
            monkeypatch.setattr(sys, "stdout", console)
            assert main(["check", "net.py:Net", "--output-format", "concise"]) == 1
        assert "8 × \\u5c64 \\u2265 3" in (tmp_path / "console").read_text(encoding="cp1252")


@pytest.mark.parametrize("words", [["loop.py"], ["loop.py:Net"], ["--changed", "loop.py"], ["--config", "loop.toml"]])
def test_links_that_lead_in_a_circle(run, jobs, project, words):
    for name in ("loop.py", "loop.toml"):
        (project / name).symlink_to(name)
    _, _, err = run("check", *words)
    assert "bnlint itself" not in err


@pytest.mark.parametrize("told", [["--input", "8X4"], []])
def test_an_input_that_cannot_be_read_is_told_before_the_model_is_built(run, jobs, project, told):
    if not told:
        (project / "bnlint.toml").write_text('[[targets]]\ntarget = "net.py:Net"\ninputs = ["8X4"]\n')
    code, _, err = run("check", "net.py:Net", *told)
    assert (code, jobs) == (2, [])
    assert "`8x4`" in err


def test_an_input_and_a_function_that_makes_one_exclude_each_other(run):
    code, _, err = run("check", "net.py:Net", "--input", "8x4", "--input-fn", "net.py:make")
    assert code == 2
    assert "--input-fn" in err
