"""Real bugs of the families norm, activation and wiring, each rebuilt in a few lines, and what looks like them.

The ids are those of the collection of cases that the rules were written against.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bnlint
from bnlint import Severity

from .conftest import Fn

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
IMAGES = "8x3x32x32"


class Overwritten(nn.Module):
    """The norm of the fourth conv is lost to the one of the hidden layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, bias=False)
        self.norm4 = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 32, bias=False)
        self.norm4 = nn.BatchNorm1d(32)
        self.out = nn.Linear(32, 4)

    def forward(self, x):
        x = self.norm4(self.conv(x)).relu().mean((2, 3))
        return self.out(self.norm4(self.hidden(x)).relu())


class Pooled(nn.Module):
    """A branch that pools to one position before its norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.squeeze, self.norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        pooled = self.norm(self.squeeze(F.adaptive_avg_pool2d(x, 1))).relu()
        return self.out(torch.cat([x, pooled.expand_as(x)], 1))


def normed(momentum, cls=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), cls(8, momentum=momentum), nn.ReLU(), nn.Conv2d(8, 2, 3))


def helper(batch_norm):
    """A block builder that leaves out the bias whether or not a norm follows."""

    def block(inside, outside, norm=True):
        layers = [nn.Conv2d(inside, outside, 3, padding=1, bias=False)]
        return [*layers, *([nn.BatchNorm2d(outside)] if norm else []), nn.ReLU()]

    return nn.Sequential(*block(3, 8), *block(8, 8), *block(8, 8, batch_norm), *block(8, 8), nn.Conv2d(8, 2, 1))


class Shortcut(nn.Module):
    """A residual block whose projection has no norm."""

    def __init__(self, norm):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.skip = nn.Sequential(nn.Conv2d(3, 8, 1, 2, bias=False), *([nn.BatchNorm2d(8)] if norm else []))
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        return self.out((self.body(x) + self.skip(x)).relu().mean((2, 3)))


class Stem(nn.Module):
    """The first conv of a ResNet, with its norm forgotten, before normalised convs of the same kind."""

    def __init__(self, names):
        super().__init__()
        for i, name in enumerate(names):
            setattr(self, f"conv{i}", nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1))
            if name:
                setattr(self, f"bn{i}", nn.BatchNorm2d(8))
        self.names, self.fc = names, nn.Linear(8, 4)

    def forward(self, x):
        for i, name in enumerate(self.names):
            x = getattr(self, f"conv{i}")(x)
            x = F.relu(getattr(self, f"bn{i}")(x) if name else x)
        return self.fc(x.mean((2, 3)))


class Pyramid(nn.Module):
    """One head on every level of a feature pyramid."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv, self.norm, self.out = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm, nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return [self.out(self.norm(self.conv(level)).relu()) for level in (x, F.max_pool2d(x, 2), F.max_pool2d(x, 4))]


class Frozen(nn.Module):
    """A pretrained part that is not to change."""

    def __init__(self, *, keep=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()).requires_grad_(False)
        self.body.eval()
        self.fc, self.keep = nn.Linear(8, 4), keep

    def train(self, mode=True):
        super().train(mode)
        if self.keep:
            self.body.eval()
        return self

    def forward(self, x):
        return self.fc(self.body(x))


class FoldedNorm(nn.BatchNorm2d):
    """Its scale and shift lie in the conv already; it lets everything through."""

    def forward(self, x):
        return x


def classifier(*end):
    return nn.Sequential(nn.Linear(42, 16), nn.ReLU(), nn.Linear(16, 10), *end)


def wrapped(model):
    """An exporter's leftover: forward of a ready classifier with a softmax around it."""
    inner = model.forward
    model.forward = lambda x: torch.softmax(inner(x), dim=1)
    return model


class Heads(nn.Module):
    """A detector: boxes, and confidences that are squashed in the model."""

    def __init__(self, squash):
        super().__init__()
        self.conv, self.squash = nn.Conv2d(3, 6, 3), squash

    def forward(self, x):
        return torch.sigmoid(self.conv(x)) if self.squash else self.conv(x)


class InList(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.layers = make(nn.Conv1d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class PreActivation(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        x = 1.0 * x
        return x + self.conv(self.relu(x))


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(torch.relu(self.layer1(x)))


class Cell(nn.Module):
    """A recurrent cell written by hand; the hidden state never meets a nonlinearity."""

    def __init__(self, activation):
        super().__init__()
        self.i2h, self.i2o, self.activation = nn.Linear(16, 8), nn.Linear(8, 4), activation

    def forward(self, x, h):
        h = self.activation(self.i2h(torch.cat([x, h], 1)))
        return F.log_softmax(self.i2o(h), dim=1)


def split(cut):
    parts = {"encoder": nn.Sequential(nn.Linear(8, 8), nn.ReLU()), "head": nn.Linear(8, 4), "probe": nn.Linear(8, 4)}
    return Fn(cut, **parts)


def scores(dim):
    return Fn(lambda m, q, c: (m.fc(q) @ c.mT).softmax(dim) @ c, fc=nn.Linear(3, 3))


BUGS = {
    "bn-rank-01": (Overwritten, "4x1x16x16", {}, "BN101", "norm4", ERROR),
    "bn-rank-01 the second assignment": (Overwritten, "4x1x16x16", {}, "BN508", "norm4", WARNING),
    "bn-rank-03": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm2d(8)), "4x8", {}, "BN101", "1", ERROR),
    "bn-rank-05": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm2d(8)), "2x3x8x8x8", {}, "BN101", "1", ERROR),
    "bn-rank-07": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), "float32[8]", {}, "BN101", "1", ERROR),
    "bn-n1-01": (Pooled, "1x3x16x16", {}, "BN102", "norm", ERROR),
    "bn-n1-03": (Pooled, "8x3x16x16", {}, "BN102", "norm", INFO),
    "bn-n1-05": (Pooled, "2x3x16x16", {}, "BN102", "norm", WARNING),
    "bn-n1-07": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), "1x8", {}, "BN102", "1", ERROR),
    "bn-mom-01": (lambda: normed(0.99), IMAGES, {}, "BN103", "1", WARNING),
    "bn-mom-03": (lambda: normed(0.9), IMAGES, {}, "BN103", "1", WARNING),
    "bn-mom-05": (lambda: normed(0.997), IMAGES, {}, "BN103", "1", WARNING),
    "bias-bn-01": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), IMAGES, {}, "BN105", "0", INFO),
    "bias-bn-09": (lambda: helper(False), IMAGES, {}, "BN106", "6", WARNING),
    "miss-bn-01": (lambda: Stem([True, True, False, True, True]), IMAGES, {}, "BN106", "conv2", None),
    "miss-bn-03": (lambda: Shortcut(False), IMAGES, {}, "BN108", "skip.0", WARNING),
    "shared-bn-01": (lambda: Pyramid(nn.BatchNorm2d(8)), IMAGES, {}, "BN104", "norm", WARNING),
    "eval-03": (Frozen, "8x8", {}, "BN111", "body.1", WARNING),
    "eval-05": (lambda: Frozen(), "8x8", {}, "BN111", "body.1", WARNING),
    "eval-09": (lambda: normed(0.0), IMAGES, {}, "BN103", "1", INFO),
    "smce-01": (lambda: classifier(nn.Softmax(dim=1)), "4x42", {"loss": "cross_entropy"}, "BN402", "3", ERROR),
    "smce-05": (lambda: scores(-1), ["2x4x3", "2x5x3"], {"loss": "cross_entropy"}, None, "", None),
    "smce-07": (lambda: wrapped(classifier()), "4x42", {"loss": "cross_entropy"}, "BN402", "", ERROR),
    "smce-08": (lambda: classifier(nn.LogSoftmax(1)), "4x42", {"loss": "cross_entropy"}, "BN402", "3", INFO),
    "sgbce-01": (lambda: classifier(nn.Sigmoid()), "4x42", {"loss": "bce_with_logits"}, "BN402", "3", ERROR),
    "sgbce-05": (lambda: Heads(True), IMAGES, {"loss": "bce_with_logits"}, "BN402", "", ERROR),
    "smdim-01": (lambda: scores(0), ["2x4x3", "2x5x3"], {}, "BN403", "", WARNING),
    "outact-01": (lambda: classifier(nn.ReLU(), nn.Softmax(1)), "4x42", {}, "BN404", "4", WARNING),
    "outact-03": (lambda: classifier(nn.ReLU()), "4x42", {"loss": "cross_entropy"}, "BN402", "3", ERROR),
    "outact-05": (lambda: nn.Sequential(nn.Linear(8, 1), nn.Softmax(1)), "4x8", {}, "BN403", "1", ERROR),
    "nonlin-03": (lambda: Cell(lambda h: h), ["4x8", "4x8"], {}, "BN401", "i2o", WARNING),
    "nonlin-05": (lambda: nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))), "4x8", {}, "BN401", "1", WARNING),
    "list-03": (lambda: InList(list), "4x8x16", {}, "BN501", "layers[0]", ERROR),
    "list-05": (lambda: InList(tuple), "4x8x16", {}, "BN501", "layers[0]", ERROR),
    "inpl-01": (lambda: PreActivation(True), IMAGES, {}, "BN407", "relu", WARNING),
    "use-01": (TwoLayers, "4x8", {}, "BN502", "layer2", WARNING),
    "drop-01": (lambda: Fn(lambda m, x: m.fc(F.dropout(x)), fc=nn.Linear(8, 8)), "4x8", {}, "BN406", "", WARNING),
    "det-01": (lambda: split(lambda m, x: m.head(m.encoder(x).clone().detach())), "4x8", {}, "BN503", "encoder", WARNING),
}  # fmt: skip


@pytest.mark.parametrize("case", BUGS)
def test_caught(case):
    make, inputs, options, code, path, severity = BUGS[case]
    found = {(f.code, f.module_path): f.severity for f in bnlint.check(make(), inputs, static=True, **options).findings}
    print(found)
    assert found.get((code, path)) is severity


LOOK_ALIKES = {
    "bn-mom-07": (lambda: normed(0.1), IMAGES, {}),
    "bn-mom None": (lambda: normed(None), IMAGES, {}),
    "bias-bn-09": (lambda: helper(True), IMAGES, {}),
    "miss-bn-01": (lambda: Stem([True] * 5), IMAGES, {}),
    "miss-bn-03": (lambda: Shortcut(True), IMAGES, {}),
    "shared-bn-01 group norm": (lambda: Pyramid(nn.GroupNorm(2, 8)), IMAGES, {}),
    "eval-05": (lambda: Frozen(keep=True), "8x8", {}),
    "use-neg-01": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), FoldedNorm(8), nn.ReLU(), nn.Conv2d(8, 2, 1)), IMAGES, {}),
    "init-neg-01": (lambda: nn.Linear(8, 4), "4x8", {}),
    "smce-01": (classifier, "4x42", {"loss": "cross_entropy"}),
    "smce-01 two losses": (lambda: classifier(nn.LogSoftmax(1)), "4x42", {"loss": "nll_loss"}),
    "sgbce-05": (lambda: Heads(False), IMAGES, {"loss": "bce_with_logits"}),
    "smdim-01": (lambda: scores(-1), ["2x4x3", "2x5x3"], {}),
    "nonlin-03": (lambda: Cell(torch.tanh), ["4x8", "4x8"], {"loss": "nll_loss"}),
    "list-03": (lambda: InList(nn.ModuleList), "4x8x16", {}),
    "inpl-01": (lambda: PreActivation(False), IMAGES, {}),
    "drop-01": (lambda: Fn(lambda m, x: m.fc(F.dropout(x, 0.5, m.training)), fc=nn.Linear(8, 8)), "4x8", {}),
    "det-neg-01": (lambda: split(lambda m, x: (m.head(m.encoder(x)), m.probe(m.encoder(x).detach()))), "4x8", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", LOOK_ALIKES)
@pytest.mark.parametrize("static", [True, False])
def test_silent(case, static):
    make, inputs, options = LOOK_ALIKES[case]
    torch.manual_seed(0)
    rows = bnlint.check(make(), inputs, static=static, **options).findings
    assert [(f.code, f.message) for f in rows if f.severity is not INFO] == []
