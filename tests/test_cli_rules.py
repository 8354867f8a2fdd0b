"""`bnlint rules`, `rule`, `version` and `--help`: what they say, that they are quick, and that torch stays out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bnlint import registry
from bnlint.rule import ENGINE_CODES
from tests.commands import OWN_RULE, Run

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.2  # seconds
BYTE_CODE = tempfile.mkdtemp(prefix="bnlint-bytecode-")  # pip compiles what it installs, so that is what people meet


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_RULE)
    return tmp_path


class TestRules:
    def test_list(self, run: Run) -> None:
        code, out, _ = run("rules", "--rule-path", "own.py")
        rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines()}
        assert code == 0
        assert rows["XX101"] == ["own-rule", "warning", "modules"]
        assert set(ENGINE_CODES) <= set(rows)

    def test_json(self, run: Run) -> None:
        rows = {row["code"]: row for row in json.loads(run("rules", "--json", "--rule-path", "own.py")[1])}
        assert rows["XX101"] == {
            "code": "XX101",
            "name": "own-rule",
            "family": "plugin",
            "severity": "warning",
            "phase": "modules",
            "summary": "Finds what the test wants found.",
            "state": "stable",
            "since": "0.1.0",
            "enabled": True,
            "because": "by default",
            "options": {"limit": {"type": "float", "default": 2.5, "value": 2.5}},
            "url": None,
        }
        assert (rows["BN904"]["family"], rows["BN904"]["phase"]) == ("meta", None)

    @pytest.mark.parametrize("text", ["XX101", "own-rule"])
    def test_one_rule(self, run: Run, text: str) -> None:
        code, out, _ = run("rule", text, "--rule-path", "own.py")
        assert code == 0
        assert out.startswith("XX101 own-rule\n")
        assert "Why it matters" in out
        assert "limit" in out and "2.5" in out

    @pytest.mark.parametrize(
        ("told", "on", "because"),
        [
            ("", True, "by default"),
            ('ignore = ["XX"]', False, "ignore XX in bnlint.toml"),
            ('select = ["norm"]', False, "not in select in bnlint.toml"),
            ('select = ["norm"]\nextend-select = ["own-rule"]', True, "extend-select own-rule in bnlint.toml"),
        ],
    )
    def test_the_configuration_counts(self, run: Run, project: Path, told: str, on: bool, because: str) -> None:
        (project / "bnlint.toml").write_text(
            f'{told}\nrule-paths = ["own.py"]\nseverity.XX101 = "info"\nrules.XX101.limit = 4\n'
        )
        row = next(row for row in json.loads(run("rules", "--json")[1]) if row["code"] == "XX101")
        assert (row["enabled"], row["because"], row["severity"]) == (on, because, "info")
        assert row["options"]["limit"]["value"] == 4
        line = next(line for line in run("rules")[1].splitlines() if line.startswith("XX101"))
        assert line.split()[2:5] == ["info", "modules", "on" if on else "off"]
        assert because in run("rule", "own-rule")[1]
        assert run("rule", "own-rule", "--isolated")[0] == 2

    def test_options_say_what_is_on(self, run: Run) -> None:
        rows = json.loads(run("rules", "--json", "--select", "BN1", "--ignore", "BN101,BN908")[1])
        off = {row["code"]: row["because"] for row in rows if not row["enabled"]}
        assert (off["BN101"], off["BN908"], off["BN201"]) == ("ignore BN101", "ignore BN908", "not in select")
        assert not off.keys() & {"BN102", "BN901", "BN907"}

    def test_rules_in_preview(self, run: Run, project: Path) -> None:
        text = OWN_RULE.replace("limit: float", 'state = State.PREVIEW\n    since = "0.2.0"\n\n    limit: float')
        (project / "own.py").write_text(text.replace("import Phase, Rule", "import Phase, Rule, State"))
        for options, on in ((["--rule-path", "own.py"], "off"), (["--rule-path", "own.py", "--preview"], "on")):
            line = next(line for line in run("rules", *options)[1].splitlines() if line.startswith("XX101"))
            assert line.split()[4:6] == [on, "(preview)"]
            assert f"preview since 0.2.0; {on}" in run("rule", "XX101", *options)[1]

    @pytest.mark.parametrize("args", [["rule", "BN999"], ["rules", "--select", "bn999"], ["rule", "old-name"]])
    def test_what_became_of_a_rule(self, run: Run, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
        for key in ("BN999", "old-name"):
            monkeypatch.setitem(registry.REMOVED, key, "was merged into BN401 in 0.3.0")
        code, _, error = run(*args)
        assert (code, "it was merged into BN401" in error) == (2, True)

    def test_one_engine_code(self, run: Run) -> None:
        assert run("rule", "timed-out")[:2] == run("rule", "BN905")[:2]

    def test_a_docstring_cannot_steer_the_terminal(self, run: Run, project: Path) -> None:
        (project / "own.py").write_text(OWN_RULE.replace("Finds what", "Finds \\x1b[31m what"))
        for args in (["rules"], ["rule", "XX101"]):
            out = run(*args, "--rule-path", "own.py")[1]
            assert "\x1b" not in out
            assert "\\x1b[31m" in out

    @pytest.mark.parametrize("args", [["version"], ["--version"]])
    def test_version(self, run: Run, args: list[str]) -> None:
        assert re.fullmatch(r"bnlint \d+\.\d+\.\d+\n", run(*args)[1])

    def test_version_verbose(self, run: Run) -> None:
        words = {line.split()[0] for line in run("version", "--verbose")[1].splitlines()}
        assert words == {"bnlint", "python", "torch", "click", "tabulate"}


def imported(folder: Path, *args: str) -> set[str]:
    """The modules that `bnlint ARGS`, run in a folder, imports."""
    command = [sys.executable, "-X", "importtime", "-m", "bnlint", *args]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def quickest(folder: Path, *args: str) -> float:
    """The processor seconds of the quickest of up to ten runs: other work on the machine only ever adds to them."""
    command = [sys.executable, "-m", "bnlint", *args]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": BYTE_CODE}
    best = float("inf")
    for _ in range(10):
        before = os.times()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, spent or after.elapsed - before.elapsed)  # Windows does not count its children's
        if best < LIMIT:
            break
    return best


LIGHT = [["--help"], ["check", "--help"], ["rules"], ["rules", "--json"], ["rule", "BN901"], ["version", "--verbose"]]


@pytest.mark.parametrize("args", LIGHT, ids=" ".join)
def test_light_commands_leave_torch_alone(project: Path, args: list[str]) -> None:
    modules = imported(project, *args)
    assert "bnlint.cli" in modules
    assert not modules & {"torch", "numpy", "tabulate"}


def test_that_test_can_fail(project: Path) -> None:
    (project / "torch.py").write_text("")  # a stand-in: it takes the real one's place on the path
    (project / "own.py").write_text("import torch\n" + OWN_RULE)
    assert "torch" in imported(project, "rules", "--rule-path", "own.py")


@pytest.mark.parametrize("args", LIGHT[:5], ids=" ".join)
def test_light_commands_are_quick(project: Path, args: list[str]) -> None:
    assert quickest(project, *args) < LIMIT


def test_that_a_slow_command_is_noticed(project: Path) -> None:
    (project / "own.py").write_text(f"import time\nwhile time.process_time() < {LIMIT} + 0.1: pass\n" + OWN_RULE)
    assert quickest(project, "rules", "--rule-path", "own.py") > LIMIT


def test_importing_the_package_leaves_torch_alone(project: Path) -> None:
    code = "import sys, bnlint; bnlint.check; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("bnlint rule BN10", "BN101"),
        ("bnlint rule norm-rank", "norm-rank-mismatch"),
        ("bnlint check --select BN101,BN10", "plain,BN101,BN102"),
        ("bnlint check --ignore wir", "wiring"),
        ("bnlint check --output-f", "--output-format"),
        ("bnlint bas", "baseline"),
        ("bnlint check --output js", "json-lines"),
        ("bnlint check --loss cr", "cross_entropy"),
        ("bnlint check --dtype b", "bfloat16"),
        ("bnlint check models/ne", "file,models/ne"),
        ("bnlint init models/ne", "file,models/ne"),
        ("bnlint check --batch da", "file,da"),
        ("bnlint check --config py", "file,py"),
        ("bnlint check --cache-dir ca", "dir,ca"),
    ],
)
def test_shells_complete_words(words: str, offered: str) -> None:
    assert (offered if "," in offered else f"plain,{offered}") in completions(words)


def test_a_family_is_no_rule() -> None:
    assert "plain,norm" in completions("bnlint check --select norm")
    assert "plain,norm" not in completions("bnlint rule norm")


def completions(words: str) -> list[str]:
    code = "from bnlint.cli import cli; cli(prog_name='bnlint')"
    told = {"_BNLINT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    environment = os.environ | told | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines()
