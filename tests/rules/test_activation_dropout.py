"""BN406: dropout that does not follow the model's mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint import Severity


class Drops(nn.Module):
    def __init__(self, drop, **attributes):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.drop = drop
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.drop(self, torch.relu(self.fc(x)))


def attend(dropout_p):
    return lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=dropout_p(m))


def verdict(found, model, inputs="4x8", **options):
    return [f.severity for f in found(model, inputs, select=["BN406"], info=True, **options).values()]


ACTIVE = [
    Drops(lambda m, x: F.dropout(x, 0.5)),  # drop-01
    Drops(lambda m, x: F.dropout(x)),
    Drops(lambda m, x: nn.Dropout(0.5)(x)),  # made anew, always in training mode
    Drops(lambda m, x: m.layers[0](x), layers=[nn.Dropout(0.5)]),  # eval() does not reach it
    Drops(attend(lambda m: 0.1)),
]


@pytest.mark.parametrize("model", ACTIVE)
def test_active_in_eval_mode(found, model):
    assert verdict(found, model) == [Severity.WARNING]


@pytest.mark.parametrize("model", ACTIVE)
def test_two_passes_in_eval_mode_differ(model):
    x = torch.randn(64, 8)
    with torch.no_grad():
        model.eval()
        assert not torch.equal(model(x), model(x))
        model.train()


def test_written_out_is_a_remark(found):
    model = Drops(lambda m, x: F.dropout(x, 0.5, training=True))  # Monte Carlo dropout
    assert verdict(found, model) == [Severity.INFO]


@pytest.mark.parametrize(
    "model",
    [
        Drops(lambda m, x: F.dropout(x, 0.5, m.training)),
        Drops(lambda m, x: F.dropout(x, 0.5, training=m.training)),
        Drops(lambda m, x: F.dropout(x, 0.0)),
        Drops(lambda m, x: m.layer(x), layer=nn.Dropout(0.5)),
        Drops(attend(lambda m: 0.1 if m.training else 0.0)),
        Drops(lambda m, x: F.dropout(x, 0.5) if m.training else x),
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
    ],
)
def test_follows_the_mode(found, model):
    inputs = "2x5x8" if isinstance(model, nn.TransformerEncoderLayer) else "4x8"
    assert verdict(found, model, inputs) == []
    assert verdict(found, model, inputs, mode="eval") == []


def test_in_eval_mode_the_first_recording_is_looked_at(found):
    assert verdict(found, Drops(lambda m, x: F.dropout(x, 0.5)), mode="eval") == [Severity.WARNING]
