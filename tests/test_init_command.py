"""`bnlint init`: its table, its document, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

from bnlint.audit import audit_module
from bnlint.cli import main
from bnlint.job import Job
from bnlint.report.layers import SCHEMA, table

ROOT = Path(__file__).resolve().parents[1]
NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, width)
        self.head = nn.Linear(width, 4)
        nn.init.normal_(self.hidden.weight, std=0.01)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).amax(dim=(2, 3))
        return self.head(torch.relu(self.hidden(x)))


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        raise RuntimeError("no way")
"""
INPUT = ("--input", "4x3x8x8")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py:Net", *INPUT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["conv.weight", "hidden.weight", "head.weight"]
    assert "N(0, 0.01²)" in lines[3]


def test_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py:Net", *INPUT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(found, SCHEMA)
    conv, hidden, head = found["layers"]
    assert (conv["fan_in"], conv["fan_out"], conv["normalised"]) == (27, 144, True)
    assert (head["behind"], head["shape"]) == ("relu", [4, 64])
    assert head["wanted_std"] == pytest.approx((2 / 64) ** 0.5, rel=0.01)
    assert head["ratio"] == pytest.approx(head["std"] / head["wanted_std"])
    assert hidden["gain"] == pytest.approx(0.04, rel=0.1)
    assert "def init_weights" in found["suggestion"]


def rows(model: nn.Module, spec: str, **job: Any) -> list[dict[str, Any]]:
    return audit_module(model, Job("net.py:Net", inputs=(spec,), layers=True, **job)).layers


def test_factors_are_those_of_the_signal() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(3) for part in (nn.Linear(512, 512), nn.ReLU())])
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    found = rows(model, "64x512")
    assert [row["forward"] for row in found] == pytest.approx([2, 1, 1], rel=0.05)
    assert [row["backward"] for row in found] == pytest.approx([2, 1, 1], rel=0.05)
    assert [row["measured_std"] for row in found] == pytest.approx([2**0.5] * 3, rel=0.1)
    assert [row["predicted_std"] for row in found] == pytest.approx([row["measured_std"] for row in found], rel=0.1)


def test_static_measures_nothing() -> None:
    found = rows(nn.Linear(8, 4), "2x8", static=True)
    assert found[0]["measured_std"] is None
    assert found[0]["predicted_std"] is not None


def test_meta_model_has_shapes_only() -> None:
    report = audit_module(nn.Linear(8, 4, device="meta"), Job("net.py:Net", inputs=("2x8",), layers=True, static=True))
    (row,) = report.layers
    assert (row["shape"], row["std"], row["scheme"]) == ([4, 8], None, "no values")
    assert "4x8" in table(report)


@pytest.mark.parametrize("option", ["--json", "--suggest"])
def test_what_cannot_run_has_exit_code_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py:Broken", "--input", "2x4", option]) == 2
    assert main(["init", "net.py:Gone", option]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err


def test_one_model_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py"]) == 2
    assert "net.py:Net" in capsys.readouterr().err
    assert main(["init", "net.py:Net", "--json", "--suggest"]) == 2


def test_suggestion_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "net.py:Net", *INPUT, "--suggest"]) == 0
    text = capsys.readouterr().out
    Path("start.py").write_text(text)
    check = "from net import Net; from start import init_weights; m = Net(); m.apply(init_weights); print(m.hidden.weight.std())"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F,W,I",
        "--line-length",
        "120",
        "start.py",
    ]
    lint = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout


def test_help_needs_no_torch() -> None:
    code = "import sys; from bnlint.cli import main; main(['init', '--help']); sys.exit('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_weights(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, ".")
    try:
        from net import Net  # type: ignore[import-not-found]
    finally:
        sys.path.remove(".")
    torch.save(Net().state_dict(), "w.pt")
    assert main(["init", "net.py:Net", *INPUT, "--weights", "w.pt"]) == 0
    assert "unknown/trained" in capsys.readouterr().out
