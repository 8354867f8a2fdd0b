"""The seed Net, repaired. `python examples/seed_net_repaired.py` trains it for a hundred steps on made-up images.

What changed: the norms take feature maps (BatchNorm2d), the linear maps work on channels (1x1 convolutions), the
batch axis survives the flatten, the size before the classifier no longer depends on the image, and there are
activations between the linear layers, with the initialisation that suits them.
"""

import math

import torch
from torch import Tensor, nn


class BNLayer(nn.Module):
    """Normalises a feature map, then mixes its channels at every pixel."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_features)
        self.linear = nn.Conv2d(in_features, out_features, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.bn(x).relu()).relu()


class Net(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)  # the norm's shift is its bias
        self.bn1 = BNLayer(16, 16)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1, bias=False)
        self.bn2 = BNLayer(32, 32)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.fc1 = nn.Linear(32 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, num_classes)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))  # (N, 16, H, W)
        x = self.bn2(self.conv2(x))  # (N, 32, H, W)
        x = self.pool(x).flatten(1)  # (N, 512)
        return self.fc2(self.fc1(x).relu())  # (N, num_classes)


def init_weights(module: nn.Module) -> None:
    """He initialisation, which keeps the signal's size through ReLU layers."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def gratings(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy striped images of ten classes: five directions, each with wide and narrow stripes."""
    labels = torch.randint(10, (count,))
    angle = (labels % 5) * (math.pi / 5)
    frequency = 2.0 + 3.0 * (labels // 5)
    phase = torch.rand(count) * 2 * math.pi
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    stripes = (frequency[:, None, None] * math.pi * along + phase[:, None, None]).sin()
    return stripes[:, None] + 0.5 * torch.randn(count, 3, size, size), labels


def main(steps: int = 100) -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(1, steps + 1):
        images, labels = gratings(64)
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 20 == 0:
            accuracy = (logits.argmax(1) == labels).float().mean()
            print(f"step {step:3d}  loss {loss.item():.3f}  accuracy {accuracy.item():.2f}")


if __name__ == "__main__":
    main()
