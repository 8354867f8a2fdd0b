"""`--weights`: what is understood, what is refused and why, and that nothing in the file runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bnlint
from bnlint.cache import Cache
from bnlint.checkpoint import load_weights
from bnlint.cli import main
from bnlint.failure import BuildError
from bnlint.job import Job, TargetReport

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3))
        return self.head(torch.relu(self.hidden(x)))
"""


class Body(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 32)
        self.head = nn.Linear(32, classes)


def trained(seed: int = 1) -> dict[str, torch.Tensor]:
    """A state dict like one after training."""
    torch.manual_seed(seed)
    model = Body()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        model.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        model.norm.num_batches_tracked.fill_(100)  # type: ignore[union-attr, operator]
    return model.state_dict()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in trained().items()}


WRAPPED: dict[str, Callable[[], Any]] = {
    "plain": trained,
    "state_dict": lambda: {"state_dict": trained(), "epoch": 3},
    "model": lambda: {"model": trained(), "optimizer": {"state": {}, "param_groups": []}},
    "DataParallel": lambda: prefixed("module."),
    "compiled": lambda: prefixed("_orig_mod."),
    "Lightning": lambda: {
        "state_dict": {**prefixed("model."), "loss.weight": torch.ones(4)},
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.4.0",
    },
    "both": lambda: {"model_state_dict": prefixed("module.model.")},
    "before num_batches_tracked": lambda: {k: v for k, v in trained().items() if not k.endswith("tracked")},
    "half precision": lambda: {name: value.half() for name, value in trained().items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_understood(name: str) -> None:
    torch.save(WRAPPED[name](), "w.pt")
    model = Body()
    load_weights(model, "w.pt")
    assert torch.allclose(model.hidden.weight, trained()["hidden.weight"], atol=1e-3)


def test_says_where_the_tensors_were() -> None:
    torch.save({"state_dict": prefixed("module.")}, "w.pt")
    words = load_weights(Body(), "w.pt")
    assert words == "10 tensors from `w.pt`, found in `state_dict`, without the prefix `module.`"


def test_safetensors() -> None:
    save = pytest.importorskip("safetensors.torch").save_file
    save(trained(), "w.safetensors")
    model = Body()
    load_weights(model, "w.safetensors")
    assert torch.equal(model.conv.weight, trained()["conv.weight"])
    Path("w.safetensors").write_bytes(b"no")
    with pytest.raises(BuildError, match=r"w\.safetensors"):
        load_weights(Body(), "w.safetensors")


class Code:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a pickle with code": (lambda: torch.save(Code(), "w.pt"), "refuses"),
    "a whole model": (lambda: torch.save(nn.Linear(2, 2), "w.pt"), "torch.nn.modules.linear.Linear"),
    "arguments of the command line": (
        lambda: torch.save({"state_dict": trained(), "args": argparse.Namespace(lr=1)}, "w.pt"),
        "argparse.Namespace",
    ),
    "TorchScript": (lambda: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "w.pt"), "TorchScript"),
    "nonsense": (lambda: Path("w.pt").write_text("hello"), "damaged"),
    "an empty file": (lambda: Path("w.pt").touch(), "damaged"),
    "half a file": (lambda: (torch.save(trained(), "a.pt"), cut("a.pt", "w.pt")), "damaged"),
    "nothing": (lambda: None, "does not exist"),
    "a folder": (lambda: Path("w.pt").mkdir(), "folder"),
    "an empty dict": (lambda: torch.save({}, "w.pt"), "no tensors"),
    "no tensors": (lambda: torch.save({"epoch": 3}, "w.pt"), "`epoch`"),
    "a tensor": (lambda: torch.save(torch.ones(3), "w.pt"), "Tensor"),
    "a list": (lambda: torch.save([torch.ones(3)], "w.pt"), "list"),
    "other classes": (lambda: torch.save(Body(7).state_dict(), "w.pt"), "differ"),
    "another model": (lambda: torch.save(nn.Linear(2, 2).state_dict(), "w.pt"), "differ"),
}


def cut(source: str, target: str) -> None:
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: len(data) // 2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, word = REFUSED[name]
    make()
    with pytest.raises(BuildError) as caught:
        load_weights(Body(), "w.pt")
    finding = caught.value.finding
    assert finding.code == "BN902"
    assert word in finding.message
    assert "\n" not in finding.message
    assert not Path("ran").exists()


def test_mismatches_have_near_names() -> None:
    state = trained()
    state["hiden.weight"] = state.pop("hidden.weight")
    state["head.weight"] = torch.ones(7, 32)
    torch.save(state, "w.pt")
    with pytest.raises(BuildError) as caught:
        load_weights(Body(), "w.pt")
    assert caught.value.finding.note.splitlines() == [
        "`hidden.weight` is missing; the file has `hiden.weight`",
        "`head.weight` is 7x32 in the file and 4x32 in the model",
    ]


def test_a_near_name_of_a_missing_file() -> None:
    torch.save(trained(), "weights.pt")
    with pytest.raises(BuildError) as caught:
        load_weights(Body(), "weight.pt")
    assert "weights.pt" in caught.value.finding.help


def test_meta_model() -> None:
    torch.save(trained(), "w.pt")
    with torch.device("meta"):
        model = Body()
    load_weights(model, "w.pt")
    assert torch.equal(model.head.weight, trained()["head.weight"])


def checked(state: dict[str, torch.Tensor], *codes: str) -> dict[tuple[str, str], bnlint.Finding]:
    torch.save(state, "w.pt")
    report = bnlint.check("net.py:Net", "4x3x8x8", weights="w.pt", select=codes, isolate=False)
    assert report.exit_code() < 2, report
    return {(f.code, f.module_path): f for f in report.findings}


INIT = ("BN3",)


def test_trained_weights_are_sound() -> None:
    assert checked(trained(), *INIT) == {}


def spoilt(name: str, value: float, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    state = trained()
    state[name][rows] = value
    return state


def duplicated() -> dict[str, torch.Tensor]:
    state = trained()
    for name in ("hidden.weight", "hidden.bias"):
        state[name][16:] = state[name][:16]
    return state


def dead() -> dict[str, torch.Tensor]:
    return {
        **spoilt("hidden.weight", 0.0, slice(4)),
        "hidden.bias": spoilt("hidden.bias", 0.0, slice(4))["hidden.bias"],
    }


def never_updated() -> dict[str, torch.Tensor]:
    fresh = {name: value for name, value in Body().state_dict().items() if name.startswith("norm.")}
    return {**trained(), **fresh}


@pytest.mark.parametrize(
    ("make", "code", "path"),
    [
        (lambda: spoilt("hidden.weight", float("nan"), slice(1)), "BN306", "hidden"),
        (lambda: spoilt("norm.running_var", float("inf")), "BN306", "norm"),
        (duplicated, "BN309", "hidden"),
        (dead, "BN309", "hidden"),
        (lambda: spoilt("hidden.weight", 0.5), "BN301", "hidden"),
        (lambda: spoilt("norm.running_var", 0.0), "BN316", "norm"),
        (lambda: spoilt("norm.running_var", -1.0, slice(1)), "BN316", "norm"),
        (lambda: spoilt("norm.running_var", 1e7, slice(1)), "BN316", "norm"),
        (never_updated, "BN316", "norm"),
    ],
)
def test_values_are_audited(make: Callable[[], dict[str, torch.Tensor]], code: str, path: str) -> None:
    assert checked(make(), *INIT).keys() == {(code, path)}


def test_a_few_dead_channels_are_no_matter() -> None:
    assert checked(spoilt("norm.running_var", 0.0, slice(4)), *INIT) == {}


def test_fresh_statistics_of_a_fresh_model_are_no_matter() -> None:
    assert not bnlint.check("net.py:Net", "4x3x8x8", select=["BN316"], isolate=False, static=True).findings


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": trained()}, "w.pt")
    options = ["--input", "4x3x8x8", "--no-cache", "--select", "BN3"]
    assert main(["check", "net.py:Net", "--weights", "w.pt", *options]) == 0
    assert "`state_dict`" in capsys.readouterr().out
    assert main(["check", "net.py:Net", "--weights", "gone.pt", *options]) == 2


def test_not_on_the_meta_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "net.py:Net", "--weights", "w.pt", "--meta"]) == 2
    assert "--meta" in capsys.readouterr().err


def test_configuration() -> None:
    Path("models").mkdir()
    torch.save(duplicated(), "models/w.pt")
    Path("bnlint.toml").write_text('[[targets]]\ntarget = "net.py:Net"\nweights = "models/w.pt"\ninputs = "4x3x8x8"\n')
    assert main(["check", "--select", "BN309", "--no-isolate"]) == 1


def test_the_cache_asks_for_the_content(project: Path) -> None:
    torch.save(trained(), "w.pt")
    job, cache = Job("net.py:Net", weights="w.pt"), Cache(project / "cache")
    cache.keep_report(job, TargetReport("net.py:Net", files=[str(project / "net.py")]))
    assert cache.report(job) is not None
    torch.save(trained(2), "w.pt")
    assert cache.report(job) is None
    assert cache.report(Job("net.py:Net")) is None
