"""What the tests of the norm family share: convolutions with and without a norm."""

from torch import nn


def conv(inside, outside, kernel=3, **options):
    return nn.Conv2d(inside, outside, kernel, padding=kernel // 2, **{"bias": False, **options})


def block(inside, outside, norm=nn.BatchNorm2d, **options):
    layers = [conv(inside, outside, **options)]
    if norm is not None:
        layers.append(norm(outside))
    return [*layers, nn.ReLU()]
