"""BN118 to BN121: statistics over one value, eps, stored statistics and none."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlint import Severity

from .conftest import Fn

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


def dcgan_init(module):
    """init-04: the text's N(0, 0.02) taken literally for norms too."""
    for m in module.modules():
        if getattr(m, "weight", None) is not None:
            nn.init.normal_(m.weight, 0.0, 0.02)
    return module


# -- BN118 ---------------------------------------------------------------------------------------------------------


def pooled(norm):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), norm, nn.ReLU())


@pytest.mark.parametrize(
    ("model", "severity"),
    [
        (pooled(nn.InstanceNorm2d(8)), ERROR),
        (pooled(nn.GroupNorm(8, 8)), WARNING),
        (pooled(nn.GroupNorm(4, 8)), None),
        (pooled(nn.BatchNorm2d(8)), None),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8)), None),
    ],
)
def test_statistics_over_one_value(severities, model, severity):
    assert set(severities("BN118", model, "8x3x8x8").values()) == ({severity} if severity else set())


def test_layer_norm_of_one_feature(severities):
    assert severities("BN118", nn.Sequential(nn.Linear(8, 1), nn.LayerNorm(1)), "8x8") == {"1": WARNING}


# -- BN119 ---------------------------------------------------------------------------------------------------------


def standardised(eps, cast=lambda x: x):
    def forward(m, x):
        x = cast(x)
        return (x - x.mean(1, True)) / torch.sqrt(x.var(1, keepdim=True) + eps)

    return Fn(forward)


def over_deviation(eps):
    return Fn(lambda m, x: (x - x.mean(1, True)) / (x.std(1, keepdim=True) + eps))


EPS = [
    (standardised(1e-8), "float16", WARNING),  # fp16-07
    (standardised(1e-5), "float16", INFO),
    (standardised(1e-4), "float16", None),
    (standardised(1e-8), "bfloat16", None),
    (standardised(1e-8), "float32", None),
    (standardised(1e-8, lambda x: x.float()), "float16", None),
    (standardised(1e-8, lambda x: x.to(torch.float32)), "float16", None),
    (over_deviation(1e-5), "float16", WARNING),
    (over_deviation(1e-4), "float16", None),
    (Fn(lambda m, x: F.normalize(x)), "float16", WARNING),  # fp16-04
    (Fn(lambda m, x: F.normalize(x, eps=1e-5)), "float16", WARNING),  # fp16-04: "even 1e-5"
    (Fn(lambda m, x: F.normalize(x, eps=1e-4)), "float16", None),
    (Fn(lambda m, x: F.normalize(x.float())), "float16", None),
    (nn.LayerNorm(8, eps=1e-12), "float16", None),  # computed in float32
    (nn.LayerNorm(8, eps=0.0), "float32", WARNING),
    (nn.LayerNorm(8), "float32", None),
]


@pytest.mark.parametrize(("model", "dtype", "severity"), EPS)
def test_eps_too_small_for_the_format(severities, model, dtype, severity):
    expected = set() if severity is None else {severity}
    assert set(severities("BN119", model, "4x8", dtype=dtype).values()) == expected  # told with --dtype
    built = copy.deepcopy(model).to(getattr(torch, dtype))
    assert set(severities("BN119", built, f"{dtype}[4,8]").values()) == expected  # found in the model


@pytest.mark.parametrize(("model", "dtype", "severity"), [row for row in EPS if row[2] is not None])
def test_a_warning_means_that_zeros_give_no_number(model, dtype, severity):
    x = torch.zeros(4, 8, dtype=getattr(torch, dtype), requires_grad=True)
    y = copy.deepcopy(model).to(x.dtype)(x)
    y.sum().backward()
    assert bool(y.isfinite().all() & x.grad.isfinite().all()) is (severity is INFO)


@pytest.mark.parametrize("model", [standardised(1e-8), Fn(lambda m, x: F.normalize(x))])
def test_an_eps_of_zero_makes_nan(model):
    assert model(torch.zeros(2, 8, dtype=torch.float16)).isnan().all()
    assert not nn.LayerNorm(8, eps=1e-12, dtype=torch.float16)(torch.zeros(2, 8, dtype=torch.float16)).isnan().any()


# -- BN120 ---------------------------------------------------------------------------------------------------------


def loaded(variance, batches=1000):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    model[0].running_var.fill_(variance)
    model[0].num_batches_tracked.fill_(batches)
    return model


@pytest.mark.parametrize(("variance", "reported"), [(1.0, False), (0.5, False), (100.0, True), (0.01, True)])
def test_stored_variance_against_a_given_batch(severities, variance, reported):
    batch = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = severities("BN120", loaded(variance), batch, static=False)
    assert found == ({"0": INFO} if reported else {})


def test_stored_variance_of_new_norms_or_against_a_made_up_batch(severities):
    assert severities("BN120", loaded(100.0, batches=0), torch.randn(16, 3, 8, 8), static=False) == {}
    assert severities("BN120", loaded(100.0), "16x3x8x8", static=False) == {}


class Outside(nn.Module):
    """Norms that the model does not know: held in a list, and made in forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.held = nn.Conv2d(3, 3, 1), [nn.BatchNorm2d(3)]
        dcgan_init(self.held[0])

    def forward(self, x):
        return nn.BatchNorm2d(3)(self.held[0](self.conv(x)).relu()) + nn.LayerNorm(8, eps=0.0)(x)


def test_norms_that_are_not_registered_are_no_obstacle(found):
    for static in (True, False):
        rows = found(Outside(), torch.randn(4, 3, 8, 8), static=static, info=True)
        crashed = {f.evidence["rule"] for (code, _), f in rows.items() if code == "BN909"}
        assert not [code for code in crashed if code.startswith("BN1")]


# -- BN121 ---------------------------------------------------------------------------------------------------------


def test_batch_statistics_in_evaluation(severities):
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3), nn.BatchNorm2d(3))
    assert severities("BN121", model, "4x3x8x8") == {"0": INFO}
