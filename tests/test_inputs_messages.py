"""What is said when no input is found, or when the one that was told does not fit: always an `--input` to write."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from bnlint.audit import audit_module
from bnlint.inputs import InputError, resolve
from bnlint.inputs.given import nearest
from bnlint.job import Job, TargetReport
from bnlint.rule import Finding, Severity


class Digits(nn.Module):
    """Takes 8x1x14x14 and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 5), nn.Linear(6 * 5 * 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.max_pool2d(self.conv(x), 2).flatten(1))


class Checked(Digits):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 28:
            raise ValueError("only pictures of 28 x 28")
        return self.conv(x).mean((2, 3))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(30, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor, features: Tensor, *, mask: Tensor) -> Tensor:
        return self.head((self.words(tokens) * mask[..., None]).mean(1) + features)


class Impossible(nn.Module):
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        raise ValueError("never")


class Chain(nn.Sequential):
    """Fails with any input."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 4), nn.ReLU(), nn.Linear(5, 4))


def told(*texts: str) -> Job:
    return Job("-", inputs=texts, static=True)


def written(text: str) -> tuple[str, ...]:
    """The options in a help text, as a shell would pass them."""
    return tuple(re.findall(r"--input '([^']+)'", text))


def engines(report: TargetReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == "BN903"]


def runs(model: nn.Module, options: tuple[str, ...]) -> bool:
    given = resolve(model, Job("-", inputs=options))
    return model(*given.args, **given.kwargs) is not None


def test_what_was_tried_and_an_input_to_write() -> None:
    with pytest.raises(InputError) as caught:
        resolve(Impossible(), Job("-"))
    finding = caught.value.finding
    assert finding.code == "BN903" and finding.severity is Severity.ERROR
    tried = [line for line in finding.note.splitlines() if line.startswith("tried ")]
    assert len(tried) == len(set(tried)) == 5 and all("x=" in line and "table=" in line for line in tried)
    assert [text.partition("=")[0] for text in written(finding.help)] == ["x", "table"]


@pytest.mark.parametrize("text", ["8x3x64x64", "8x1x28x28", "8x14"])
def test_sizes_that_do_not_fit(text: str) -> None:
    report = audit_module(Digits(), told(text))
    layers = {finding.module_path for finding in report.findings if finding.severity is Severity.ERROR}
    assert layers and layers <= {"conv", "head", ""}
    where = [*report.notes, *(finding.help for finding in engines(report))]
    assert [written(line) for line in where if written(line)] == [("x=float32[8,1,14,14]",)]
    assert runs(Digits(), ("x=float32[8,1,14,14]",))


def test_a_check_of_the_models_own() -> None:
    (finding,) = engines(audit_module(Checked(), told("4x1x30x30")))
    assert "only pictures of 28 x 28" in finding.message and finding.location is not None
    assert written(finding.help) == ("x=float32[4,1,28,28]",)


def test_inputs_that_are_missing() -> None:
    with pytest.raises(InputError) as caught:
        resolve(Pair(), told("int64[4,7]"))
    options = written(caught.value.finding.help)
    assert options[0] == "features=float32[4,16]" and options[1].startswith("mask=") and "[4,7]" in options[1]
    assert runs(Pair(), ("int64[4,7]<30", *options))


def test_nothing_is_proposed_for_a_model_that_never_works() -> None:
    assert nearest(Chain(), told("8x16")) == ""
    report = audit_module(Chain(), told("8x16"))
    assert "BN201" in {finding.code for finding in report.findings} and not engines(report)
    assert not any(written(note) for note in report.notes)


def test_nothing_is_proposed_for_an_input_that_fits() -> None:
    report = audit_module(Digits(), told("8x1x14x14"))
    assert report.status == "ok" and not any(written(note) for note in report.notes)


class Observations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        return self.head(obs["state"])


def test_no_option_is_proposed_for_tensors_inside_of_a_container() -> None:
    (finding,) = engines(audit_module(Observations(), told("obs=8x16")))
    assert "--input-fn" in finding.help and "obs.state=8x16" in finding.help and not written(finding.help)


class ByName(Observations):
    def forward(self, *, state: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(state) * scale


def test_inputs_that_are_only_taken_by_name() -> None:
    with pytest.raises(InputError, match="takes `state` by name only, as in --input 'state="):
        resolve(ByName(), told("8x16"))
