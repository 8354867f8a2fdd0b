"""Real initialisation bugs, retold: each is found at its line, its repair is silent, and so are the false alarms."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pytest

import bnlint

HEAD = "import torch\nfrom torch import nn\n\n\n"


@dataclass(frozen=True)
class Case:
    """A model with a bug, the text that repairs it, and what is to be found at the line that holds `here`."""

    text: str
    bug: str
    fix: str
    code: str
    path: str
    here: str
    spec: str = "8x3x16x16"


CASES = {
    "norm scales from U(0, 1), as PyTorch did until 1.1": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 64, 3, bias=False)
                self.norm = nn.BatchNorm2d(64)
                self.head = nn.Linear(64, 4)
                BUG

            def forward(self, x):
                return self.head(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        """,
        "nn.init.uniform_(self.norm.weight)",
        "nn.init.ones_(self.norm.weight)",
        "BN112",
        "norm",
        "BatchNorm2d",
    ),
    "DCGAN's text taken at its word: all weights around zero, norms included": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.up = nn.ConvTranspose2d(100, 64, 4, bias=False)
                self.norm = nn.BatchNorm2d(64)
                self.out = nn.ConvTranspose2d(64, 3, 4, 2, 1)
                nn.init.normal_(self.up.weight, 0.0, 0.02)
                nn.init.normal_(self.out.weight, 0.0, 0.02)
                BUG

            def forward(self, z):
                return torch.tanh(self.out(torch.relu(self.norm(self.up(z)))))
        """,
        "nn.init.normal_(self.norm.weight, 0.0, 0.02)",
        "nn.init.normal_(self.norm.weight, 1.0, 0.02)",
        "BN112",
        "norm",
        "BatchNorm2d",
        "8x100x1x1",
    ),
    "a method that initialises and is never called": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = nn.Conv2d(4, 32, 3, padding=1)
                self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
                self.out = nn.Conv2d(32, 12, 1)
                BUG

            def _initialize_weights(self):
                for m in self.modules():
                    if isinstance(m, nn.Conv2d):
                        nn.init.normal_(m.weight, 0.0, 0.1)
                        nn.init.zeros_(m.bias)

            def forward(self, x):
                x = nn.functional.leaky_relu(self.conv1(x), 0.2)
                return self.out(nn.functional.leaky_relu(self.conv2(x), 0.2))
        """,
        "pass",
        "self._initialize_weights()",
        "BN304",
        "",
        "def _initialize_weights",
        "2x4x16x16",
    ),
    "PyTorch's default loses the signal of a deep plain network": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                layers = []
                for _ in range(12):
                    conv = nn.Conv2d(16, 16, 3, padding=1)
                    BUG
                    layers += [conv, nn.ReLU()]
                self.stem = nn.Conv2d(3, 16, 3, padding=1)
                self.body = nn.Sequential(*layers)
                self.head = nn.Conv2d(16, 4, 1)

            def forward(self, x):
                return self.head(self.body(self.stem(x)))
        """,
        "pass",
        'nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")',
        "BN303",
        "stem",
        "self.stem = nn.Conv2d",
        "2x3x16x16",
    ),
    "a gate of two zero layers never moves": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.base = nn.Linear(10, 10)
                self.first = nn.Linear(10, 10, bias=False)
                self.second = nn.Linear(10, 10, bias=False)
                self.head = nn.Linear(10, 2)
                nn.init.zeros_(self.second.weight)
                BUG

            def forward(self, x):
                x = self.base(x)
                return self.head(x + torch.tanh(self.second(torch.relu(self.first(x)))) * x)
        """,
        "nn.init.zeros_(self.first.weight)",
        "pass",
        "BN301",
        "first",
        "self.first = nn.Linear",
        "4x10",
    ),
    "every layer filled with one value: the loss stays at ln K": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(16, 32)
                self.out = nn.Linear(32, 10)
                for layer in (self.hidden, self.out):
                    BUG

            def forward(self, x):
                return self.out(torch.relu(self.hidden(x)))
        """,
        "nn.init.constant_(layer.weight, 0.01)",
        "nn.init.kaiming_normal_(layer.weight)",
        "BN301",
        "hidden",
        "self.hidden = nn.Linear",
        "4x16",
    ),
    "XOR with equal weights stays at chance": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(2, 8)
                self.out = nn.Linear(8, 1)
                BUG

            def forward(self, x):
                return self.out(torch.sigmoid(self.hidden(x)))
        """,
        "nn.init.ones_(self.hidden.weight); nn.init.ones_(self.out.weight)",
        "nn.init.normal_(self.hidden.weight); nn.init.normal_(self.out.weight)",
        "BN301",
        "hidden",
        "self.hidden = nn.Linear",
        "4x2",
    ),
    "weights so small that the output hardly depends on the picture": Case(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
                self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
                self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
                self.conv4 = nn.Conv2d(32, 32, 3, padding=1)
                self.head = nn.Linear(32, 4)
                for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
                    BUG

            def forward(self, x):
                for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
                    x = torch.relu(conv(x))
                return self.head(x.flatten(2).amax(2))
        """,
        "nn.init.normal_(conv.weight, std=0.005)",
        'nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")',
        "BN302",
        "conv1",
        "self.conv1 = nn.Conv2d",
    ),
}
CODES = ("BN112", "BN301", "BN302", "BN303", "BN304", "BN305", *(f"BN3{n:02}" for n in range(6, 17)))

SOUND = {
    "one linear layer of zeros": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(16, 4)
                nn.init.zeros_(self.linear.weight)

            def forward(self, x):
                return self.linear(x)
        """,
        "4x16",
    ),
    "a softmax classifier of zeros on flat pictures": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(768, 10)
                for parameter in self.parameters():
                    nn.init.zeros_(parameter)

            def forward(self, x):
                return torch.softmax(self.linear(x.flatten(1)), 1)
        """,
        "8x3x16x16",
    ),
    "a guard that sets the norm's weight twice and leaves its bias, which is zero anyway": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 16, 3, bias=False)
                self.norm = nn.BatchNorm2d(16)
                self.head = nn.Linear(16, 4)
                nn.init.constant_(self.norm.weight, 1)
                if self.norm.bias is not None:
                    nn.init.constant_(self.norm.weight, 1)

            def forward(self, x):
                return self.head(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        """,
        "8x3x16x16",
    ),
}


@pytest.fixture
def checked(tmp_path):
    def run(text, spec):
        file = tmp_path / "net.py"
        file.write_text(HEAD + text)
        report = bnlint.check(f"{file}:Net", spec, select=CODES, static=True, isolate=False)
        assert report.exit_code() < 2, report
        return report.findings

    return run


@pytest.mark.parametrize("name", CASES)
def test_found_at_its_line_and_silent_when_repaired(checked, name):
    case = CASES[name]
    text = textwrap.dedent(case.text)
    broken = text.replace("BUG", case.bug)
    line = next(i for i, row in enumerate((HEAD + broken).split("\n"), 1) if case.here in row)
    places = [(f.code, f.module_path, (f.location or f.call).line) for f in checked(broken, case.spec)]
    assert (case.code, case.path, line) in places
    assert {code for code, _, _ in places} == {case.code}
    assert [f.code for f in checked(text.replace("BUG", case.fix), case.spec)] == []


@pytest.mark.parametrize("name", SOUND)
def test_what_only_looks_wrong(checked, name):
    text, spec = SOUND[name]
    assert checked(textwrap.dedent(text), spec) == []
