"""BN306: NaN and infinity in parameters and buffers, and the infinities that are meant."""

import math

import pytest
import torch
from torch import nn

from bnlint import Severity


def net(value, name="0.weight"):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    model.state_dict()[name].view(-1)[3] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var", "3.weight"])
def test_one_bad_entry(severities, value, name):
    assert severities("BN306", net(value, name), "4x8") == {name.split(".")[0]: Severity.ERROR}


def test_evidence_counts_both(found):
    model = net(math.nan)
    model[0].weight.data[5, 0] = math.inf
    evidence = found(model, "4x8", select=["BN306"])["BN306", "0"].evidence
    assert (evidence["tensor"], evidence["nan"], evidence["infinite"], evidence["entries"]) == ("weight", 1, 1, 128)


def test_16_bits(severities):
    assert severities("BN306", net(math.nan).to(torch.bfloat16), "4x8") == {"0": Severity.ERROR}


def test_a_mask_of_minus_infinity_is_meant(severities):
    model = net(0.0)
    model.register_buffer("mask", torch.full((8, 8), -math.inf).triu(1))
    assert severities("BN306", model, "4x8") == {}
    model.mask[0, 0] = math.nan
    assert severities("BN306", model, "4x8") == {"": Severity.ERROR}


@pytest.mark.parametrize("make", [lambda: net(0.0), lambda: nn.LazyLinear(4), lambda: nn.Linear(8, 4, device="meta")])
def test_sound_and_unseen_values_are_silent(severities, make):
    assert severities("BN306", make(), "4x8") == {}


def test_8_bits(severities):
    model = nn.Linear(8, 4)
    model.register_buffer("packed", torch.randn(4, 4).to(torch.float8_e4m3fn))
    assert severities("BN306", model, "4x8") == {}
    model.packed = torch.full((4, 4), math.nan).to(torch.float8_e4m3fn)
    assert severities("BN306", model, "4x8") == {"": Severity.ERROR}
