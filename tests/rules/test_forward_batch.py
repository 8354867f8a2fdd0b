"""BN610 and BN611: the scale of a user's batch, and the first loss."""

import pytest
import torch
from torch import nn

import bnlint
from bnlint import audit
from bnlint.job import Job

PIXELS = torch.randint(256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()


def net(first=None):
    torch.manual_seed(0)
    return nn.Sequential(
        *([first] if first else []),
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x / 255)


def normed():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))


@pytest.mark.parametrize(
    ("model", "batch", "reported"),
    [
        (net(), PIXELS, True),
        (net(), PIXELS / 255, False),
        (net(), PIXELS / 255 - 0.5, False),
        (net(), PIXELS / 1e6, True),
        (net(nn.BatchNorm2d(3)), PIXELS, False),
        (normed(), PIXELS, False),
        (Scaled(), PIXELS, False),
        (net(), torch.zeros(8, 3, 16, 16), False),
    ],
)
def test_the_scale_of_the_batch(severities, model, batch, reported):
    found = severities("BN610", model, batch, static=False)
    assert list(found.values()) == ([bnlint.Severity.INFO] if reported else [])


def test_a_made_up_batch_is_not_judged(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(8, 4)\n"
    )
    report = audit.run(Job(f"{path.as_posix()}:Net", inputs=("int64[8,8]<256",), select=("BN610",)), lambda stage: None)
    floats = audit.run(Job(f"{path.as_posix()}:Net", inputs=("8x8",), select=("BN610",)), lambda stage: None)
    assert [f.code for r in (report, floats) for f in r.findings if f.code == "BN610"] == []
    assert floats.rules == 1


def classifier(std, classes=10):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes))
    nn.init.normal_(model[2].weight, std=std)
    return model


@pytest.mark.parametrize(
    ("std", "loss", "reported"),
    [
        (0.02, "cross_entropy", False),
        (0.2, "cross_entropy", False),
        (3.0, "cross_entropy", True),
        (3.0, None, False),
        (3.0, "mse", False),
        (3.0, "bce_with_logits", False),  # what is rare is not known
    ],
)
def test_the_first_loss(severities, std, loss, reported):
    found = severities("BN611", classifier(std), torch.randn(32, 32), static=False, loss=loss)
    assert found == ({"2": bnlint.Severity.WARNING} if reported else {})


def test_the_first_loss_of_a_trained_model(severities):
    found = severities("BN611", classifier(3.0), torch.randn(32, 32), static=False, loss="cross_entropy", mode="eval")
    assert found == {}
