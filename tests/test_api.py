"""The Python API, with the audit and the worker replaced."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bnlint
from bnlint import audit, parallel, worker
from bnlint.config import ConfigError
from bnlint.job import Job, TargetReport
from bnlint.registry import RegistryError
from bnlint.rule import Finding, Severity, engine_finding
from bnlint.target import TargetError
from tests.commands import OWN_RULE

FINDING = Finding(code="XX101", name="own-rule", severity=Severity.WARNING, message="something is off", module_path="0")
Call = tuple[Job, Any]


@pytest.fixture(autouse=True)
def rule_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("")
    (tmp_path / "own.py").write_text(OWN_RULE)
    return [tmp_path / "own.py"]


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    calls: list[Call] = []

    def audit_module(model: nn.Module, job: Job, inputs: Any = None) -> TargetReport:
        calls.append((job, inputs))
        return TargetReport(job.target, findings=[FINDING])

    monkeypatch.setattr(audit, "audit_module", audit_module)
    return calls


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    calls: list[Call] = []

    def check(job: Job, **options: Any) -> TargetReport:
        calls.append((job, options))
        return TargetReport(job.target, findings=[FINDING])

    monkeypatch.setattr(worker, "check", check)
    monkeypatch.setattr(parallel, "_cores", lambda: 1)
    return calls


def test_a_model_is_audited_here(audited: list[Call], rule_paths: list[Path]) -> None:
    report = bnlint.check(nn.Sequential(nn.Linear(2, 3)), rule_paths=rule_paths, seed=3)
    assert [f.code for f in report.findings] == ["XX101"]
    assert report.findings[0].target == report.targets[0].target == "Sequential"
    assert (audited[0][0].seed, "XX101" in audited[0][0].select) == (3, True)


def test_specs_go_to_the_job_and_values_to_the_audit(audited: list[Call], rule_paths: list[Path]) -> None:
    x = torch.zeros(2, 3)
    for inputs in ("2x3", ["2x3", "m=2"], x, (x, x), {"x": x}, None):
        bnlint.check(nn.Linear(3, 1), inputs, rule_paths=rule_paths)
    assert [job.inputs for job, _ in audited] == [("2x3",), ("2x3", "m=2"), (), (), (), ()]
    assert [type(value) for _, value in audited] == [type(None)] * 2 + [torch.Tensor, tuple, dict, type(None)]


def test_a_target_goes_through_the_worker(worked: list[Call], rule_paths: list[Path]) -> None:
    report = bnlint.check("net.py:Net", "2x3", rule_paths=rule_paths, timeout=5, memory_limit="1G", isolate=False)
    job, options = worked[0]
    assert (job.target, job.inputs, report.targets[0].target) == ("net.py:Net", ("2x3",), "net.py:Net")
    assert (options["timeout"], options["memory_limit"], options["isolate"]) == (5, 1 << 30, False)


def test_a_file_without_a_model_is_not_clean(monkeypatch: pytest.MonkeyPatch, rule_paths: list[Path]) -> None:
    monkeypatch.setattr(worker, "discover", lambda path, **options: ([], [("Net", "it needs `width`")]))
    with pytest.raises(ConfigError, match="it needs `width`"):
        bnlint.check(Path("net.py"), rule_paths=rule_paths)


def test_nothing_is_printed(audited: list[Call], rule_paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    bnlint.check(nn.Linear(3, 1), rule_paths=rule_paths)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"select": ["XX999"]}, ConfigError),
        ({"ignore": "ALL"}, ConfigError),
        ({"loss": "cross_entrpy"}, ConfigError),
        ({"mode": "test"}, ConfigError),
        ({"rule_paths": ["gone.py"]}, RegistryError),
        ({"bach_size": 3}, TypeError),
    ],
)
def test_mistakes_are_exceptions(audited: list[Call], options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        bnlint.check(nn.Linear(3, 1), **options)


@pytest.mark.parametrize("thing", [3, nn.Linear, None])
def test_only_models_and_targets(thing: Any, rule_paths: list[Path]) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        bnlint.check(thing, rule_paths=rule_paths)


def test_a_target_takes_no_tensors(rule_paths: list[Path]) -> None:
    with pytest.raises(TypeError, match="specs"):
        bnlint.check("net.py:Net", torch.zeros(2, 3), rule_paths=rule_paths)


def test_a_bad_target(rule_paths: list[Path]) -> None:
    with pytest.raises(TargetError):
        bnlint.check("net.py:Net(width=os.sep)", rule_paths=rule_paths)


def test_assert_clean(monkeypatch: pytest.MonkeyPatch, audited: list[Call], rule_paths: list[Path]) -> None:
    model = nn.Linear(3, 1)
    with pytest.raises(AssertionError, match="XX101"):
        bnlint.assert_clean(model, rule_paths=rule_paths)
    bnlint.assert_clean(model, rule_paths=rule_paths, fail_on="error")
    failed = engine_finding("BN903", "the forward pass raises RuntimeError: no")
    for finding, status in ((failed, "failed"), (dataclasses.replace(FINDING, severity=Severity.ERROR), "ok")):
        answer = TargetReport("Linear", status, findings=[finding])
        monkeypatch.setattr(audit, "audit_module", lambda *args, answer=answer: answer)
        with pytest.raises(AssertionError, match=finding.code):
            bnlint.assert_clean(model, rule_paths=rule_paths, fail_on="error")


def test_assert_clean_rejects_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="fatal"):
        bnlint.assert_clean(nn.Linear(3, 1), fail_on="fatal")


def test_the_public_names() -> None:
    assert bnlint.__all__ == ["Finding", "Report", "Severity", "__version__", "assert_clean", "check"]
    assert all(hasattr(bnlint, name) for name in bnlint.__all__)
