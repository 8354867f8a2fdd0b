"""One cause, one finding: what yields to what, and what is left says of it."""

import dataclasses

import pytest
from torch import nn

import bnlint
from bnlint.grouping import settled
from bnlint.registry import load_rules
from bnlint.rule import Finding, Severity

YIELDS = {"XX2": ("XX1",), "XX3": ("XX1", "XX2")}


def finding(code, *nodes, severity=Severity.WARNING, **evidence):
    return Finding(
        code, f"{code}-name", severity, "m", module_path="fc", modules=("fc",), nodes=nodes, evidence=evidence
    )


def codes(*findings):
    return [f.code for f in settled(findings, YIELDS)]


def test_a_finding_yields_to_one_about_the_same_ops():
    assert codes(finding("XX2", "a"), finding("XX1", "b", "a")) == ["XX1"]
    assert codes(finding("XX3", "a"), finding("XX2", "a", "b"), finding("XX1", "b")) == ["XX1"]
    assert codes(finding("XX2"), finding("XX1", "a")) == ["XX1"]  # without ops, the modules count


@pytest.mark.parametrize(
    "others",
    [
        (),
        (finding("XX1", "b"),),  # elsewhere
        (finding("XX3", "a"),),  # yields to this one
        (finding("XX4", "a"),),
        (dataclasses.replace(finding("XX1"), modules=("other",)),),
        (dataclasses.replace(finding("XX1"), modules=("",)), dataclasses.replace(finding("XX2"), modules=("",))),
    ],
)
def test_it_stands_otherwise(others):
    assert "XX2" in codes(finding("XX2", "a"), *others)


def test_what_shrinks_is_not_explained_by_what_grows():
    small, large = finding("XX2", "a", ratio=0.1), finding("XX1", "a", ratio=30.0)
    assert codes(small, large) == ["XX2", "XX1"]
    assert codes(small, finding("XX1", "a", ratio=0.2)) == ["XX1"]
    assert codes(finding("XX2", "a"), large) == ["XX1"]  # tells no ratio


def test_what_is_left_names_the_others_and_takes_the_highest_severity():
    (left,) = settled([finding("XX2", "a", severity=Severity.ERROR), finding("XX1", "a")], YIELDS)
    assert (left.code, left.severity) == ("XX1", Severity.ERROR)
    assert "XX2 XX2-name" in left.note


def test_rules_yield_to_rules_that_are_there_and_never_in_a_circle():
    rules = load_rules()

    def reached(code, path=()):
        assert code not in path
        for further in rules[code].yields_to:
            reached(further, (*path, code))

    for code in rules:
        reached(code)


def deep(depth, std=None):
    rows = [layer for _ in range(depth) for layer in (nn.Linear(64, 64), nn.ReLU())]
    for layer in rows[::2] if std else ():
        nn.init.normal_(layer.weight, std=std)
    return nn.Sequential(*rows, nn.Linear(64, 10))


def grave(report):
    return [f.code for f in report.findings if f.severity is not Severity.INFO]


@pytest.mark.parametrize(
    ("model", "code"), [(deep(8), "BN109"), (deep(16), "BN109"), (deep(10, 0.01), "BN302"), (deep(10, 0.5), "BN302")]
)
def test_a_signal_that_is_lost_is_one_finding(model, code):
    assert [f.code for f in bnlint.check(model, "8x64").findings] == [code]


@pytest.mark.parametrize("code", ["BN303", "BN601", "BN603"])
def test_a_rule_that_yields_still_reports_alone(code):
    assert grave(bnlint.check(deep(8), "8x64", select=[code])) == [code]


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.head = nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head((self.score(x).softmax(0) * x).sum(1))


def test_mixed_samples_with_a_named_cause_are_one_error():
    (found,) = bnlint.check(Pooled(), "6x7x8").findings
    assert (found.code, found.severity) == ("BN403", Severity.ERROR)
