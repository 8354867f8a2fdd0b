"""Known findings: written, heeded, pruned and shown by the commands; the worker is replaced."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bnlint import parallel, worker
from bnlint.job import Job, TargetReport
from bnlint.rule import Finding, Location, Severity, engine_finding
from tests.commands import OWN_RULE, Run

OTHER_RULE = '''

class Other(Own):
    """Finds what the test wants found."""

    code = "XX102"
    name = "other-rule"
'''
FILE = Path("bnlint-baseline.json")


def finding(*modules: str, code: str = "XX101", line: int = 2) -> Finding:
    return Finding(
        code=code,
        name="own-rule",
        severity=Severity.WARNING,
        message="something is off",
        module_path=modules[0],
        modules=modules,
        location=Location("net.py", line, 1),
    )


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BNLINT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "own.py").write_text(OWN_RULE + OTHER_RULE)
    (tmp_path / "bnlint.toml").write_text('rule-paths = ["own.py"]\ntargets = ["net.py:A", "net.py:B"]\n')
    return tmp_path


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Finding]]:
    """What is found in each target."""
    found = {"net.py:A": [finding("fc"), finding("conv1", "conv2", code="XX102")], "net.py:B": [finding("fc")]}

    def check(job: Job, **options: Any) -> TargetReport:
        name = job.target.removeprefix("../")
        failed = any(f.code == "BN903" for f in found[name])
        return TargetReport(job.target, "failed" if failed else "ok", findings=found[name])

    monkeypatch.setattr(worker, "check", check)
    monkeypatch.setattr(parallel, "_cores", lambda: 1)
    return found


def entries() -> list[tuple[str, str, str]]:
    return [(row["target"], row["code"], row["module"]) for row in json.loads(FILE.read_text())["entries"]]


ALL = [
    ("net.py:A", "XX101", "fc"),
    ("net.py:A", "XX102", "conv1"),
    ("net.py:A", "XX102", "conv2"),
    ("net.py:B", "XX101", "fc"),
]


def test_what_is_known_does_not_count(run: Run) -> None:
    assert run("check")[0] == 1
    assert run("baseline", "write")[0] == 0
    code, out, _ = run("check", "--output-format", "concise")
    assert (code, out, entries()) == (0, "", ALL)
    assert run("check", "--no-baseline")[0] == 1
    assert {row["suppressed"] for row in json.loads(run("check", "--output-format", "json")[1])["findings"]} == {
        "baseline"
    }


def test_one_entry_a_line_and_the_same_twice(run: Run) -> None:
    run("baseline", "write")
    text = FILE.read_text()
    assert [json.loads(line.strip().rstrip(","))["module"] for line in text.split("\n")[3:7]] == [
        "fc",
        "conv1",
        "conv2",
        "fc",
    ]
    run("baseline", "write")
    assert FILE.read_text() == text


def test_edits_above_do_not_matter(run: Run, model: dict[str, list[Finding]]) -> None:
    run("baseline", "write")
    model["net.py:A"] = [dataclasses.replace(f, location=Location("net.py", 99)) for f in model["net.py:A"]]
    assert run("check")[0] == 0


@pytest.mark.parametrize(
    "new",
    [finding("fc2"), finding("fc", code="XX102"), finding("conv1", "conv3", code="XX102"), finding("fc", line=9)],
    ids=["another module", "another rule", "one module more", "a second one in the same module"],
)
def test_what_is_new_counts(run: Run, model: dict[str, list[Finding]], new: Finding) -> None:
    run("baseline", "write")
    model["net.py:A"].append(new)
    code, out, _ = run("check", "--output-format", "concise")
    assert (code, out.count("\n")) == (1, 1)


def test_two_of_one_module_are_counted(run: Run, model: dict[str, list[Finding]]) -> None:
    model["net.py:A"].append(finding("fc", line=9))
    run("baseline", "write")
    assert json.loads(FILE.read_text())["entries"][0]["count"] == 2
    assert run("check")[0] == 0


def test_what_was_fixed_is_stale_until_it_is_pruned(run: Run, model: dict[str, list[Finding]]) -> None:
    run("baseline", "write")
    model["net.py:A"].pop(0)
    model["net.py:B"].append(finding("head"))
    rows = json.loads(run("check", "--output-format", "json")[1])["findings"]
    seen = [(row["target"], row["code"], row["file"], row["line"]) for row in rows if row["suppressed"] is None]
    assert seen == [("net.py:A", "BN910", "bnlint-baseline.json", 4), ("net.py:B", "XX101", "net.py", 2)]
    assert run("check", "--ignore", "BN910", "--ignore", "XX101")[0] == 0
    assert "1 removed" in run("baseline", "prune")[2]
    assert entries() == ALL[1:]
    assert run("check", "--output-format", "concise")[1].count("\n") == 1  # prune adds nothing


def test_only_what_was_checked_is_judged(run: Run, model: dict[str, list[Finding]]) -> None:
    run("baseline", "write")
    model["net.py:A"], model["net.py:B"] = [], []
    count = lambda *options: run("check", "--output-format", "concise", *options)[1].count("BN910")  # noqa: E731
    assert [count(), count("net.py:B"), count("--select", "XX102"), count("net.py:B", "--select", "XX102")] == [
        4,
        1,
        2,
        0,
    ]
    run("baseline", "prune", "net.py:B")
    assert entries() == ALL[:3]
    run("baseline", "write", "--select", "XX102")
    assert entries() == ALL[:1]


def test_a_target_that_is_not_configured_any_more(run: Run, project: Path) -> None:
    run("baseline", "write")
    (project / "bnlint.toml").write_text('rule-paths = ["own.py"]\ntargets = ["net.py:A"]\n')
    assert "BN910" in run("check", "--output-format", "concise")[1]
    assert run("check", "net.py:A")[0] == 0
    run("baseline", "prune")
    assert entries() == ALL[:3]


def test_targets_are_named_from_its_folder(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("baseline", "write")
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    assert run("check")[0] == 0


def test_another_file(run: Run, project: Path) -> None:
    assert run("baseline", "write", "--baseline", "known.json")[0] == 0
    assert (run("check")[0], run("check", "--baseline", "known.json")[0]) == (1, 0)
    (project / "bnlint.toml").write_text('baseline = "known.json"\n' + (project / "bnlint.toml").read_text())
    assert (run("check")[0], FILE.exists()) == (0, False)


def test_a_failure_is_never_known(run: Run, model: dict[str, list[Finding]]) -> None:
    run("baseline", "write")
    before = FILE.read_text()
    model["net.py:B"] = [engine_finding("BN903", "no")]
    code, _, err = run("baseline", "write")
    assert (code, "net.py:B" in err, FILE.read_text()) == (2, True, before)
    assert run("baseline", "prune")[0] == 2
    code, out, _ = run("check", "--output-format", "concise")
    assert (code, "BN903" in out, "BN910" in out) == (2, True, False)


def test_show(run: Run) -> None:
    run("baseline", "write")
    code, out, err = run("baseline", "show")
    assert (code, err) == (0, "4 known findings in bnlint-baseline.json\n")
    assert out.splitlines() == [
        "net.py:A: XX101 own-rule: fc",
        "net.py:A: XX102 other-rule: conv1, conv2",
        "net.py:B: XX101 own-rule: fc",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "not a baseline"),
        ("[]", "not a baseline"),
        ('{"version": 2, "entries": []}', "version 2"),
        ('{"version": 1}', "entries"),
        ('{"version": 1, "entries": [{"code": "XX101", "target": "a"}]}', "module"),
        ('{"version": 1, "entries": [{"code": "XX101", "target": "a", "module": 3}]}', "no string"),
        ('{"version": 1, "entries": [{"code": "XX101", "target": "a", "module": "", "count": 0}]}', "count"),
        ("[" * 100_000, "not a baseline"),
        (None, "bnlint baseline write"),
    ],
)
def test_a_baseline_that_cannot_be_read(run: Run, text: str | None, hint: str) -> None:
    if text is not None:
        Path("known.json").write_text(text)
    for args in (["check"], ["baseline", "show"], ["baseline", "prune"]):
        code, out, err = run(*args, "--baseline", "known.json")
        assert (code, out, hint in err, len(err.strip().split("\n"))) == (2, "", True, 1)


def test_a_baseline_that_cannot_be_written(run: Run) -> None:
    code, _, err = run("baseline", "write", "--baseline", "no/such/known.json")
    assert (code, "known.json" in err) == (2, True)
