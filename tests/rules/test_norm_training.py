"""BN111 to BN113: norms that training moves, that start badly, that dropout disturbs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlint import Severity

from .conftest import Fn

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


def head(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), norm(3))


# -- BN111 ---------------------------------------------------------------------------------------------------------


def frozen(module):
    return module.requires_grad_(False)


class KeptInEval(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = frozen(head()), nn.Conv2d(3, 2, 1)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x):
        return self.fc(self.body(x))


def test_frozen_backbone_with_moving_statistics(severities):
    """eval-03 and eval-05."""
    body = frozen(head()).eval()
    assert severities("BN111", nn.Sequential(body, nn.Conv2d(3, 2, 1)), "4x3x8x8") == {"0.1": WARNING}


def test_frozen_norms_that_do_not_move(severities):
    assert severities("BN111", KeptInEval(), "4x3x8x8") == {}
    assert severities("BN111", frozen(nn.Sequential(head(), nn.Conv2d(3, 2, 1))), "4x3x8x8") == {}  # nothing trains
    free = nn.Sequential(frozen(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))))
    assert severities("BN111", nn.Sequential(free, nn.Conv2d(3, 2, 1)), "4x3x8x8") == {}


class SetOnce(nn.Module):
    """eval-05: a norm that trains its weight, put in eval mode at construction only."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = head(), nn.Conv2d(3, 2, 1)
        self.freeze()

    def freeze(self):
        self.body.eval()

    def forward(self, x):
        return self.fc(self.body(x))


class SetEachTime(SetOnce):
    def forward(self, x):
        self.freeze()
        self.body.eval()
        return self.fc(self.body(x))


def test_eval_at_construction_is_undone(severities):
    assert severities("BN111", SetOnce(), "4x3x8x8") == {"body.1": WARNING}
    assert severities("BN111", SetEachTime(), "4x3x8x8") == {}
    assert severities("BN111", SetOnce().eval(), "4x3x8x8") == {}  # a whole model in eval mode says nothing


def test_a_momentum_encoder_follows_the_batch_on_purpose(severities):
    model = Fn(lambda m, x: (m.student(x), m.teacher(x)), student=head(), teacher=frozen(head()))
    assert severities("BN111", model, "4x3x8x8") == {}


# -- BN112 ---------------------------------------------------------------------------------------------------------


def dcgan_init(module):
    """init-04: the text's N(0, 0.02) taken literally for norms too."""
    for m in module.modules():
        if getattr(m, "weight", None) is not None:
            nn.init.normal_(m.weight, 0.0, 0.02)
    return module


class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x):
        return (x + F.dropout(self.norm(self.conv(x)), 0.1, self.training)).relu()


@pytest.mark.parametrize("static", [True, False])
def test_norm_drawn_like_a_weight(severities, static):
    assert severities("BN112", dcgan_init(head()), "4x3x8x8", static=static) == {"1": WARNING}
    layers = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU())
    assert severities("BN112", dcgan_init(layers), "4x8", static=static) == {"1": WARNING}


def test_one_loop_over_all_norms_is_one_finding(found):
    rows = found(dcgan_init(nn.Sequential(head(), nn.ReLU(), head())), "4x3x8x8", select=["BN112"])
    assert [f.modules for f in rows.values()] == [("0.1", "2.1")]


def test_large_shift(severities):
    model = head()
    nn.init.ones_(model[1].bias)
    assert severities("BN112", model, "4x3x8x8") == {"1": WARNING}


def test_zero_scale_before_windows_are_put_back(severities):
    """A branch whose result is cut and reordered before it is added, as in window attention."""
    model = Fn(
        lambda m, x: x + F.pad(m.n(m.c(x)), (0, 2, 0, 2))[:, :, :8, :8], c=nn.Conv2d(3, 3, 1), n=nn.BatchNorm2d(3)
    )
    nn.init.zeros_(model.n.weight)
    assert severities("BN112", model, "4x3x8x8") == {}


def test_zero_scale_without_a_skip_blocks_the_signal(severities):
    model = head()
    nn.init.zeros_(model[1].weight)
    assert severities("BN112", nn.Sequential(model, nn.ReLU(), nn.Conv2d(3, 2, 1)), "4x3x8x8") == {"0.1": WARNING}


@pytest.mark.parametrize("scale", [0.0, 1e-4])
def test_small_scale_at_the_end_of_a_branch_is_deliberate(severities, scale):
    assert severities("BN112", Block(scale), "4x3x8x8") == {}


@pytest.mark.parametrize(("activation", "expected"), [(F.silu, {}), (F.gelu, {}), (F.relu, {"n": WARNING})])
def test_zero_scale_behind_which_an_activation_ends_the_branch(severities, activation, expected):
    """CSPDarkNet. A ReLU has no slope at zero, so that the scale never leaves it."""
    model = Fn(lambda m, x: x + activation(m.n(m.c(x))), c=nn.Conv2d(3, 3, 1), n=nn.BatchNorm2d(3))
    nn.init.zeros_(model.n.weight)
    assert severities("BN112", model, "4x3x8x8") == expected
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert bool(model.n.weight.grad.any()) is not bool(expected)


class AdaptiveBlock(nn.Module):
    """DiT, adaLN-zero: shift, scale and gate come from a layer of zeros; the norm has no weight of its own."""

    def __init__(self):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 8)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(8, 24))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x, condition):
        shift, scale, gate = self.modulation(condition).chunk(3, 1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


def test_adaptive_norms_that_start_at_zero(found):
    assert found(AdaptiveBlock(), ["4x8", "4x8"]) == {}


def test_trained_scales_are_left_alone(severities):
    trained = dcgan_init(head())
    trained[1].num_batches_tracked += 100
    assert severities("BN112", trained, "4x3x8x8") == {}


@pytest.mark.parametrize(
    ("draw", "reported"), [(nn.init.uniform_, True), (lambda w: nn.init.normal_(w, 1, 0.02), False)]
)
def test_scales_drawn_around_another_mean_are_a_remark(severities, draw, reported):
    """init-02: PyTorch up to 1.1."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    draw(model[1].weight)
    assert severities("BN112", model, "4x3x8x8") == ({"1": INFO} if reported else {})


# -- BN113 ---------------------------------------------------------------------------------------------------------


def chain(*middle):
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), *middle, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())


@pytest.mark.parametrize(
    ("middle", "reported"),
    [
        ([nn.Dropout(0.5)], True),
        ([nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU()], True),
        ([nn.Dropout(0.05)], False),
        ([nn.AlphaDropout(0.5)], False),
        ([nn.Dropout(0.5), nn.LayerNorm(8)], False),
        ([nn.BatchNorm1d(8)], False),
    ],
)
def test_dropout_before_batch_norm(severities, middle, reported):
    assert severities("BN113", chain(*middle), "8x8") == ({"2": INFO} if reported else {})


def test_functional_dropout_and_dropout_behind_the_last_norm(severities):
    model = Fn(lambda m, x: m.n(F.dropout(x, 0.3, m.training)), n=nn.BatchNorm1d(8))
    assert set(severities("BN113", model, "8x8").values()) == {INFO}
    assert severities("BN113", nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)), "8x8") == {}
