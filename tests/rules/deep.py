"""What the tests of signals and gradients share: deep stacks of layers."""

import torch
from torch import nn


def severities(found):
    return {code: f.severity.value for code, f in found.items()}


def mlp(depth, activation=nn.ReLU, init=None, norm=None, width=256):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        if init is not None:
            init(layer.weight)
            nn.init.zeros_(layer.bias)
        layers += [layer, *([norm(width)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def he(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
