"""Real bugs of the wiring family, each found at its line and silent when repaired, and what only looks like one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .cases import ERROR, WARNING, Case, summary


class ListOfConvs(nn.Module):
    """Convs of several kernel sizes over one text, kept in a list."""

    def __init__(self, right):
        super().__init__()
        make = nn.ModuleList if right else list
        self.convs = make([nn.Conv2d(1, 4, (size, 12)) for size in (2, 3, 4)])  # bug
        self.fc = nn.Linear(12, 2)

    def forward(self, x):
        return self.fc(torch.cat([F.relu(conv(x)).amax((2, 3)) for conv in self.convs], 1))


class NamedConvs(nn.Module):
    """The same as attributes of no module: a tuple of Conv1d."""

    def __init__(self, right):
        super().__init__()
        convs = nn.Conv1d(12, 4, 2), nn.Conv1d(12, 4, 3), nn.Conv1d(12, 4, 4)
        self.convs = nn.ModuleList(convs) if right else convs  # bug
        self.fc = nn.Linear(12, 2)

    def forward(self, x):
        return self.fc(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1))


class LocalNets(nn.Module):
    """Ten small nets, one for each region, built in a list comprehension."""

    def __init__(self, right):
        super().__init__()
        nets = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(10)]
        self.nets = nn.ModuleList(nets) if right else nets  # bug
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * torch.cat([net(x) for net in self.nets], 1)


class Unmixing(nn.Module):
    """A layer is defined and no line of forward calls it."""

    def __init__(self, right):
        super().__init__()
        self.right, self.layer1, self.layer3 = right, nn.Linear(16, 8), nn.Linear(8, 4)
        if not right:
            self.layer2 = nn.Linear(8, 8)  # bug

    def forward(self, x):
        return self.layer3(torch.relu(self.layer1(x)))


class Captioner(nn.Module):
    """The features of the picture are cloned and detached on their way into the text model."""

    def __init__(self, right):
        super().__init__()
        self.right, self.head = right, nn.Linear(8, 4)
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU())  # bug

    def forward(self, x):
        features = self.encoder(x)
        return self.head(features if self.right else features.clone().detach())


class Introspective(nn.Module):
    """The pass that is to train the decoder by what the encoder thinks of its pictures."""

    def __init__(self, right):
        super().__init__()
        self.right, self.encoder = right, nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 16), nn.Tanh())  # bug

    def forward(self, z):
        picture = self.decoder(z)
        return self.encoder(picture if self.right else picture.detach())


CASES = {
    "list-01": Case(ListOfConvs, "8x1x10x12", "BN501", "convs[0]", ERROR),
    "list-03": Case(NamedConvs, "8x12x10", "BN501", "convs[0]", ERROR),
    "list-05": Case(LocalNets, "8x8", "BN501", "nets[0]", ERROR),
    "use-01": Case(Unmixing, "8x16", "BN502", "layer2", WARNING),
    "det-01": Case(Captioner, "8x16", "BN503", "encoder", WARNING),
    "det-03": Case(Introspective, "8x4", "BN503", "decoder", WARNING),
}


@pytest.mark.parametrize("name", CASES)
def test_caught(name):
    CASES[name].caught()


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_repaired(name, static):
    CASES[name].silent(static)


class LossReadsTheLinear(nn.Module):
    """sgbce-neg-01: a Linear and a Sigmoid in one Sequential, of which the training pass calls the Linear alone."""

    def __init__(self):
        super().__init__()
        self.token_confidence = nn.Sequential(nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, x):
        return self.token_confidence[0](x.detach()).squeeze(-1)


class OnlineClassifier(nn.Module):
    """det-neg-01: a classifier on the side watches features that another loss trains."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(16, 8), nn.ReLU())
        self.projector, self.classifier = nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x):
        features = self.backbone(x)
        return self.projector(features), self.classifier(features.detach())


class Folded(nn.BatchNorm2d):
    """use-neg-01: scale and shift were folded into the conv for inference; the norm lets everything through."""

    def forward(self, x):
        return x


class ForInference(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3), Folded(8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))))


class ZeroClassifier(nn.Linear):
    """init-neg-01 and init-neg-03: a single layer of zeros has one solution and finds it."""

    def __init__(self):
        super().__init__(16, 4)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class IntrospectiveLosses(Introspective):
    """What the case shows only to the training loop: the pictures have a loss of their own, so a gradient arrives."""

    def forward(self, z):
        picture = self.decoder(z)
        return picture, self.encoder(picture.detach())


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(
    ("model", "inputs", "options"),
    [
        (LossReadsTheLinear, "8x16", {"loss": "bce_with_logits"}),
        (OnlineClassifier, "8x16", {}),
        (ForInference, "16x3x16x16", {}),
        (ZeroClassifier, "8x16", {}),
        (lambda: IntrospectiveLosses(False), "8x4", {}),
    ],
)
def test_looks_like_a_bug(model, inputs, options, static):
    assert summary(model(), inputs, static=static, **options) == []
