"""Real bugs of the norm family, each found at its line and silent when repaired."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .cases import ERROR, INFO, WARNING, Case


class Renamed(nn.Module):
    """The norm of the fourth conv is lost to the one of the hidden layer, which got the same name."""

    def __init__(self, right):
        super().__init__()
        self.conv, self.hidden, self.out = nn.Conv2d(1, 16, 3, bias=False), nn.Linear(16, 32), nn.Linear(32, 4)
        self.bn4 = nn.BatchNorm2d(16)
        self.bn_hidden = nn.BatchNorm1d(32) if right else None
        if not right:
            self.bn4 = nn.BatchNorm1d(32)  # bug

    def forward(self, x):
        x = torch.relu(self.bn4(self.conv(x))).mean((2, 3))
        return self.out(torch.relu((self.bn_hidden or self.bn4)(self.hidden(x))))


class HiddenLayer(nn.Module):
    def __init__(self, right):
        super().__init__()
        self.fc, self.out = nn.Linear(12, 8), nn.Linear(8, 2)
        self.norm = (nn.BatchNorm1d if right else nn.BatchNorm2d)(8)  # bug

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.fc(x))))


class Video(nn.Module):
    """A dense net for video in which one norm is still that of pictures."""

    def __init__(self, right):
        super().__init__()
        self.conv0, self.norm0 = nn.Conv3d(3, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8)
        self.conv1 = nn.Conv3d(8, 8, 3, padding=1, bias=False)
        self.norm1 = (nn.BatchNorm3d if right else nn.BatchNorm2d)(16)  # bug
        self.out = nn.Conv3d(16, 4, 1)

    def forward(self, x):
        x = torch.relu(self.norm0(self.conv0(x)))
        return self.out(torch.relu(self.norm1(torch.cat([x, self.conv1(x)], 1))))


class OneVector(nn.Module):
    """The encoder of a VAE that gets a single vector without a batch axis."""

    def __init__(self, right):
        super().__init__()
        self.fc, self.mean = nn.Linear(12, 8), nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8)  # bug

    def forward(self, x):
        return self.mean(torch.relu(self.norm(self.fc(x))))


class ImagePooling(nn.Module):
    """The branch of a segmentation head that pools to one position, then normalises."""

    def __init__(self, right):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1, bias=False)
        self.pooled_norm = nn.GroupNorm(2, 8) if right else nn.BatchNorm2d(8)  # bug
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        pooled = torch.relu(self.pooled_norm(self.project(F.adaptive_avg_pool2d(x, 1))))
        return self.out(torch.cat([x, pooled.expand_as(x)], 1))


class OneSample(nn.Module):
    """A batch norm on a vector, trained one sample at a time."""

    def __init__(self, right):
        super().__init__()
        self.fc, self.out = nn.Linear(12, 8), nn.Linear(8, 2)
        self.norm = nn.LayerNorm(8) if right else nn.BatchNorm1d(8)  # bug

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.fc(x))))


def momentum(wrong, meant):
    class Ported(nn.Module):
        """A number taken over from a framework whose momentum is the weight of the past."""

        def __init__(self, right):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 2, 1)
            self.norm = nn.BatchNorm2d(8, momentum=meant if right else wrong)  # bug

        def forward(self, x):
            return self.out(torch.relu(self.norm(self.conv(x))))

    return Ported


class DoubleConv(nn.Module):
    """The block of a U-Net, each conv with a bias that its norm takes away."""

    def __init__(self, right):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=not right),  # bug
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=not right),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.out(self.block(x))


class BoardGame(nn.Module):
    """Convs and hidden layers with a bias before their norms, functional style."""

    def __init__(self, right):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=not right)  # bug
        self.norm = nn.BatchNorm2d(8)
        self.fc, self.fc_norm = nn.Linear(8 * 36, 16, bias=not right), nn.BatchNorm1d(16)
        self.policy, self.value = nn.Linear(16, 7), nn.Linear(16, 1)

    def forward(self, board):
        x = F.relu(self.norm(self.conv(board.view(-1, 1, 6, 6)))).flatten(1)
        x = F.dropout(F.relu(self.fc_norm(self.fc(x))), 0.3, self.training)
        return F.log_softmax(self.policy(x), 1), torch.tanh(self.value(x))


class Discriminator(nn.Module):
    """The helper leaves out the bias whether or not a norm follows, and the first layer has none by design."""

    def __init__(self, right):
        super().__init__()

        def conv(inside, outside, norm=True):
            return nn.Conv2d(inside, outside, 4, 2, 1, bias=right and not norm)

        self.conv1 = conv(3, 8, norm=False)  # bug
        self.conv2, self.norm2 = conv(8, 16), nn.BatchNorm2d(16)
        self.conv3, self.norm3 = conv(16, 32), nn.BatchNorm2d(32)
        self.out = nn.Linear(32 * 16, 1)

    def forward(self, x):
        x = F.leaky_relu(self.conv1(x), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(x)), 0.2)
        return self.out(F.leaky_relu(self.norm3(self.conv3(x)), 0.2).flatten(1))


class ForgottenNorm(nn.Module):
    """The same in the middle of a net, where the norm was meant to be there."""

    def __init__(self, right):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)  # bug
        self.norm2 = nn.BatchNorm2d(8) if right else nn.Identity()
        self.conv3, self.norm3 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.relu(norm(conv(x)))
        return self.out(x)


class DrawnNorm(nn.Module):
    """All weights from N(0, 0.02), as the text of a paper says, those of the norms too."""

    def __init__(self, right):
        super().__init__()
        self.up = nn.ConvTranspose2d(100, 16, 4, bias=False)
        self.norm = nn.BatchNorm2d(16)  # bug
        self.out = nn.ConvTranspose2d(16, 3, 4, 2, 1)
        for layer in (self.up, self.norm, self.out):
            nn.init.normal_(layer.weight, 1.0 if right and layer is self.norm else 0.0, 0.02)

    def forward(self, z):
        return torch.tanh(self.out(torch.relu(self.norm(self.up(z)))))


class OldDefault(nn.Module):
    """The scale of a norm drawn from U(0, 1), as PyTorch once did by itself."""

    def __init__(self, right):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 32, 3, bias=False), nn.Conv2d(32, 2, 1)
        self.norm = nn.BatchNorm2d(32)  # bug
        if not right:
            nn.init.uniform_(self.norm.weight)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))))


class SharedHead(nn.Module):
    """One head with one norm over every level of a feature pyramid."""

    def __init__(self, right):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv, self.out = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 4, 1)
        self.norm = nn.GroupNorm(2, 8) if right else nn.BatchNorm2d(8)  # bug

    def forward(self, x):
        x = self.stem(x).relu()
        return [self.out(self.norm(self.conv(level)).relu()) for level in (x, F.max_pool2d(x, 2), F.max_pool2d(x, 4))]


class Contrast(nn.Module):
    """Local and dilated features are compared behind one and the same norm."""

    def __init__(self, right):
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.local, self.context = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=4, dilation=4)
        self.bn = nn.BatchNorm2d(8)  # bug
        self.bn2 = nn.BatchNorm2d(8) if right else self.bn

    def forward(self, x):
        x = self.stem(x).relu()
        return self.out(self.bn(self.local(x)).relu() - self.bn2(self.context(x)).relu())


class Projection(nn.Module):
    """A residual block whose projection shortcut has no norm."""

    def __init__(self, right):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(3, 8, 1, 2, bias=False)  # bug
        self.bn3, self.out = nn.BatchNorm2d(8) if right else nn.Identity(), nn.Linear(8, 4)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.out(torch.relu(y + self.bn3(self.shortcut(x))).mean((2, 3)))


class Stem(nn.Module):
    """The first conv of a ResNet goes into the pooling as it is, without the norm and ReLU of all others."""

    def __init__(self, right):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)  # bug
        self.bn0 = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()) if right else nn.Identity()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv3, self.bn3 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        x = F.max_pool2d(self.bn0(self.conv0(x)), 3, 2, 1)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.out(F.relu(y + self.bn3(self.conv3(x))).mean((2, 3)))


class Mlp(nn.Module):
    """Hidden layers whose signal dies for want of a norm."""

    def __init__(self, right):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(12, 32),  # bug
            *(nn.BatchNorm1d(32) for _ in range(right)),
            nn.Sigmoid(),
            *(layer for _ in range(6) for layer in (nn.Linear(32, 32), *(nn.BatchNorm1d(32),) * right, nn.Sigmoid())),
        )
        self.out = nn.Linear(32, 1)

    def forward(self, x):
        return self.out(self.body(x))


class Frozen(nn.Module):
    """A pretrained part that is not to change: its parameters are frozen, its statistics are not."""

    def __init__(self, right):
        super().__init__()
        self.right, self.conv, self.fc = right, nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.norm = nn.BatchNorm2d(8)  # bug
        for layer in (self.conv, self.norm):
            layer.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.right:
            self.norm.eval()
        return self

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class EvalOnce(nn.Module):
    """Put in eval mode at construction; the next `train()` undoes it."""

    def __init__(self, right):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.norm = nn.BatchNorm2d(8)  # bug
        self.norm.eval()

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class EvalKept(EvalOnce):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class FrozenBatchNorm(nn.Module):
    """Statistics and scale as constants, under the names of a batch norm."""

    def __init__(self, width):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return x * scale.view(shape) + (self.bias - self.running_mean * scale).view(shape)


class HalfConverted(nn.Module):
    """A detector is frozen and its norms converted to constants, but only those of one rank."""

    def __init__(self, right):
        super().__init__()
        self.reader = nn.Linear(3, 8, bias=False)
        self.reader_norm = FrozenBatchNorm(8) if right else nn.BatchNorm1d(8)  # bug
        self.neck, self.neck_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), FrozenBatchNorm(8)
        self.requires_grad_(False)
        self.refine = nn.Conv2d(8, 4, 1)

    def forward(self, points):
        x = torch.relu(self.reader_norm(self.reader(points)))
        x = x.T.reshape(1, 8, 4, -1)
        return self.refine(torch.relu(self.neck_norm(self.neck(x))))


class OtherScale(nn.Module):
    """The stored statistics are those of other data; training mode does not look at them."""

    def __init__(self, right):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)  # bug
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.norm.running_var.fill_(1.0 if right else 1e4)
        self.norm.num_batches_tracked.fill_(1000)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(self.norm(x))).mean((2, 3)))


class UnitVectors(nn.Module):
    """Vectors are brought to length one in half precision; the smallest eps there is a hundred times too small."""

    def __init__(self, right):
        super().__init__()
        self.fc, self.eps = nn.Linear(12, 8), 1e-4 if right else 1e-12

    def forward(self, x):
        return F.normalize(self.fc(x), eps=self.eps)  # bug


class MaskedMean(nn.Module):
    """A norm over the valid part of a picture, its eps outside the range of half precision."""

    def __init__(self, right):
        super().__init__()
        self.conv, self.out, self.eps = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 1), 1e-4 if right else 1e-9

    def forward(self, x):
        x = self.conv(x)
        centred = x - x.mean((2, 3), keepdim=True)
        return self.out(centred / torch.sqrt(x.var((2, 3), keepdim=True) + self.eps))  # bug


PICTURES, SMALL = "16x3x32x32", "8x3x16x16"
DATA = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
HALF = {"dtype": "float16"}

CASES = {
    "bn-rank-01": Case(Renamed, "16x1x16x16", "BN101", "bn4", ERROR, also=("BN104",)),
    "bn-rank-03": Case(HiddenLayer, "16x12", "BN101", "norm", ERROR),
    "bn-rank-05": Case(Video, "2x3x8x16x16", "BN101", "norm1", ERROR),
    "bn-rank-07": Case(OneVector, "float32[12]", "BN101", "norm", ERROR, repaired_inputs="16x12"),
    "bn-n1-01": Case(ImagePooling, "1x3x16x16", "BN102", "pooled_norm", ERROR),
    "bn-n1-03": Case(ImagePooling, "16x3x16x16", "BN102", "pooled_norm", INFO),  # the last batch of an epoch
    "bn-n1-05": Case(ImagePooling, "2x3x16x16", "BN102", "pooled_norm", WARNING),
    "bn-n1-07": Case(OneSample, "1x12", "BN102", "norm", ERROR),
    "bn-mom-01": Case(momentum(0.99, 0.01), PICTURES, "BN103", "norm", WARNING),
    "bn-mom-03": Case(momentum(0.9, 0.1), PICTURES, "BN103", "norm", WARNING),
    "bn-mom-05": Case(momentum(0.997, 0.003), PICTURES, "BN103", "norm", WARNING),
    "bn-mom-07": Case(momentum(0.9, 0.1), PICTURES, "BN103", "norm", WARNING),  # 0.1 is wrong there and right here
    "bias-bn-01": Case(DoubleConv, PICTURES, "BN105", "block.0", INFO),
    "bias-bn-03": Case(DoubleConv, PICTURES, "BN105", "block.0", INFO),
    "bias-bn-05": Case(BoardGame, "16x6x6", "BN105", "conv", INFO),
    "bias-bn-07": Case(DoubleConv, PICTURES, "BN105", "block.0", INFO),  # the author: both settings are fine
    "bias-bn-09": Case(Discriminator, PICTURES, "BN106", "conv1", INFO),
    "bias-bn-09 in the middle": Case(ForgottenNorm, PICTURES, "BN106", "conv2", WARNING),
    "init-02": Case(OldDefault, PICTURES, "BN112", "norm", INFO),
    "init-04": Case(DrawnNorm, "16x100x1x1", "BN112", "norm", WARNING),
    "shared-bn-01": Case(SharedHead, PICTURES, "BN104", "norm", WARNING),
    "shared-bn-03": Case(Contrast, PICTURES, "BN104", "bn", WARNING),
    "miss-bn-01": Case(Stem, PICTURES, "BN106", "conv0", INFO),
    "miss-bn-05": Case(Mlp, "64x12", "BN109", "body.0", WARNING, also=("BN303",)),
    "miss-bn-03": Case(Projection, PICTURES, "BN108", "shortcut", WARNING),
    "eval-01": Case(OtherScale, DATA, "BN120", "norm", INFO, static=False),
    "eval-03": Case(Frozen, PICTURES, "BN111", "norm", WARNING),
    "eval-05": Case(EvalOnce, PICTURES, "BN111", "norm", WARNING, repaired=EvalKept),
    "eval-07": Case(HalfConverted, "16x3", "BN111", "reader_norm", WARNING),
    "eval-09": Case(momentum(0.0, 0.1), PICTURES, "BN103", "norm", INFO),
    "fp16-04": Case(UnitVectors, "16x12", "BN119", "", WARNING, options=HALF),
    "fp16-07": Case(MaskedMean, SMALL, "BN119", "", WARNING, also=("BN802",), options=HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_caught(name):
    CASES[name].caught()


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_repaired(name, static):
    CASES[name].silent(static)
