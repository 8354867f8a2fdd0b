"""BN314: a scheme that was made for another activation, in rows long enough to matter."""

import pytest
import torch
from torch import nn

from bnlint import Severity

INIT = {
    "xavier": nn.init.xavier_normal_,
    "xavier uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "he": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "he uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "lecun": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "default": lambda w: None,
    "small": lambda w: nn.init.normal_(w, std=0.01),
}


def mlp(init, act, depth=8, width=128, norm=None, seed=0):
    torch.manual_seed(seed)
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        INIT[init](layer.weight)
        if init != "default":
            nn.init.zeros_(layer.bias)
        layers += [layer, *([norm(width)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


@pytest.mark.parametrize(
    ("init", "act"),
    [
        ("xavier", nn.ReLU),
        ("xavier uniform", nn.ReLU),
        ("orthogonal", nn.ReLU),
        ("lecun", nn.LeakyReLU),
        ("xavier", nn.GELU),
    ],
)
def test_scheme_of_another_activation(found, init, act):
    rows = found(mlp(init, act), "8x128", select=["BN314"])
    assert rows.keys() == {("BN314", "2")}
    finding = rows["BN314", "2"]
    assert finding.severity is Severity.WARNING
    assert finding.evidence["layers"] >= 6
    assert finding.evidence["ratio"] < 0.1


def test_names_the_gain(found):
    evidence = found(mlp("xavier", nn.ReLU), "8x128", select=["BN314"])["BN314", "2"].evidence
    assert evidence["factor"] == pytest.approx(0.5, rel=0.1)
    assert evidence["activation"] == "relu"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("init", "act", "options"),
    [
        ("he", nn.ReLU, {}),
        ("he uniform", nn.LeakyReLU, {"depth": 12}),
        ("lecun", nn.SELU, {"depth": 12}),
        ("he", nn.SELU, {}),
        ("xavier", nn.Tanh, {}),
        ("xavier", nn.ReLU, {"depth": 3}),
        ("xavier", nn.ReLU, {"norm": nn.BatchNorm1d}),
        ("xavier", nn.ReLU, {"norm": nn.LayerNorm}),
        ("default", nn.ReLU, {}),
        ("small", nn.ReLU, {}),
    ],
)
def test_rows_that_are_sound_or_anothers_business(severities, init, act, options, seed):
    assert severities("BN314", mlp(init, act, seed=seed, **options), "8x128") == {}


def test_trained_weights(severities):
    model = mlp("xavier", nn.ReLU)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.bias, -1, 2)
    assert severities("BN314", model, "8x128") == {}
