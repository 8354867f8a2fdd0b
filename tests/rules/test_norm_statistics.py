"""BN102, BN103, BN104, BN111, BN112, BN113, BN118 to BN121: statistics that are few, stale, shared or spoilt."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlint import Severity

from .conftest import Fn

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


# -- BN102 ---------------------------------------------------------------------------------------------------------


class ImagePooling(nn.Module):
    """bn-n1-01, bn-n1-03, bn-n1-05: global pooling, then a conv, then a batch norm."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 16, 1, bias=False)
        self.norm2 = norm(16)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.norm1(self.stem(x)).relu(), 1)
        return self.norm2(self.project(x)).relu()


@pytest.mark.parametrize(("batch", "severity"), [(1, ERROR), (2, WARNING), (7, WARNING), (8, INFO)])
def test_values_per_channel(severities, batch, severity):
    assert severities("BN102", ImagePooling(), f"{batch}x3x16x16").get("norm2") is severity


def test_a_batch_that_was_guessed_gives_no_warning(severities):
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert severities("BN102", model, None, batch_size=None) == {"1": INFO}


def test_few_values_is_about_batch_norm_in_training_only(severities):
    assert severities("BN102", ImagePooling(lambda c: nn.GroupNorm(4, c)), "2x3x16x16") == {}
    assert severities("BN102", ImagePooling(), "2x3x16x16", mode="eval") == {}


def test_the_failing_batch_norm_explains_the_failing_forward(found):
    assert set(found(ImagePooling(), "1x3x16x16")) == {("BN102", "norm2")}


# -- BN103 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("momentum", "severity"),
    [(0.99, WARNING), (0.9, WARNING), (0.5, WARNING), (0.4, None), (0.1, None), (0.01, None), (0.001, INFO), (0.0, INFO), (None, None)],
)  # fmt: skip
def test_momentum(severities, momentum, severity):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum))
    assert severities("BN103", model, "4x3x8x8").get("1") is severity


def test_momentum_without_running_statistics_is_nothing(severities):
    model = nn.Sequential(
        nn.BatchNorm2d(3, momentum=0.9, track_running_stats=False), nn.InstanceNorm2d(3, momentum=0.9)
    )
    assert severities("BN103", model, "4x3x8x8") == {}


def test_equal_momentum_is_one_finding_that_names_the_convention(found):
    """bn-mom-01: a TensorFlow port."""
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.99), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=0.99))
    rows = found(model, "4x3x8x8", select=["BN103"])
    assert rows["BN103", "0"].modules == ("0", "2") and "momentum=0.01" in rows["BN103", "0"].help


# -- BN104 ---------------------------------------------------------------------------------------------------------


def siamese(m, a, b):
    return m.net(a) - m.net(b)


def levels(m, x):
    """shared-bn-01: one head with one norm over all feature levels."""
    return [m.net(F.avg_pool2d(x, size)).relu() for size in (1, 2, 4)]


def contrast(m, x):
    """shared-bn-03: one norm behind different convs."""
    return m.norm(m.a(x)).relu() + m.norm(m.b(x)).relu()


def unrolled(m, x):
    for _ in range(3):
        x = m.norm(m.a(x)).relu()
    return x


def recurrent(m, x):
    """R2U-Net: the first step stands on a line of its own."""
    y = m.norm(m.a(x)).relu()
    for _ in range(2):
        y = m.norm(m.a(x + y)).relu()
    return y


def in_turn(m, x):
    for conv in (m.a, m.b):
        x = m.norm(conv(x)).relu()
    return x


def over_time(m, x):
    return torch.stack([m.net(x[:, t]) for t in range(x.shape[1])], 1)


def head(norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), norm(3))


def test_shared_by_levels_and_by_layers(severities):
    assert severities("BN104", Fn(levels, net=head()), "4x3x16x16") == {"net.1": WARNING}
    for function in (contrast, in_turn):
        model = Fn(function, a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
        assert severities("BN104", model, "4x3x8x8") == {"norm": WARNING}


def test_a_shared_part_called_piece_by_piece_is_one_finding(found):
    def pieces(m, x):
        return [m.net["last"](m.net["first"](F.avg_pool2d(x, size)).relu()) for size in (1, 2)]

    model = Fn(pieces, net=nn.ModuleDict({"first": head(), "last": head()}))
    rows = found(model, "4x3x16x16", select=["BN104"])
    assert [f.modules for f in rows.values()] == [("net.first.1", "net.last.1")]


def test_siamese_is_info_once_for_the_shared_network(found):
    model = Fn(siamese, net=nn.Sequential(head(), nn.ReLU(), head()))
    rows = found(model, ["4x3x8x8", "4x3x8x8"], info=True, select=["BN104"])
    assert {path: (f.severity, f.modules) for (_, path), f in rows.items()} == {
        "net.0.1": (INFO, ("net.0.1", "net.2.1"))
    }


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Fn(levels, net=head(lambda c: nn.GroupNorm(1, c))), "4x3x16x16"),
        (Fn(levels, net=head(lambda c: nn.BatchNorm2d(c, track_running_stats=False))), "4x3x16x16"),
        (Fn(unrolled, a=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), "4x3x8x8"),
        (Fn(recurrent, a=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), "4x3x8x8"),
        (Fn(over_time, net=head()), "4x5x3x8x8"),
        (Fn(siamese, net=nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))), ["4x8", "4x8"]),
    ],
)
def test_sharing_that_is_fine(severities, model, shapes):
    assert severities("BN104", model, shapes) == {}


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


def test_uniform_and_trained_scales_are_left_alone(severities):
    model = head()
    nn.init.uniform_(model[1].weight)  # init-02: PyTorch up to 1.1
    assert severities("BN112", model, "4x3x8x8") == {}
    trained = dcgan_init(head())
    trained[1].num_batches_tracked += 100
    assert severities("BN112", trained, "4x3x8x8") == {}


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


def standardised(eps):
    return Fn(lambda m, x: (x - x.mean(1, True)) / torch.sqrt(x.var(1, keepdim=True) + eps))


@pytest.mark.parametrize(
    ("model", "dtype", "reported"),
    [
        (standardised(1e-8), "float16", True),  # fp16-07
        (standardised(1e-5), "float16", False),
        (standardised(1e-8), "bfloat16", False),
        (standardised(1e-8), "float32", False),
        (Fn(lambda m, x: F.normalize(x)), "float16", True),  # fp16-04
        (Fn(lambda m, x: F.normalize(x, eps=1e-4)), "float16", False),
        (nn.LayerNorm(8, eps=1e-12, dtype=torch.float16), "float16", False),  # computed in float32
        (nn.LayerNorm(8, eps=0.0), "float32", True),
        (nn.LayerNorm(8), "float32", False),
    ],
)
def test_eps_that_rounds_to_zero(severities, model, dtype, reported):
    found = severities("BN119", model, f"{dtype}[4,8]")
    assert set(found.values()) == ({WARNING} if reported else set())


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
