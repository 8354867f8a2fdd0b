"""BN304: an initialisation that nothing calls, and the many ways in which something may."""

import importlib.util
import itertools
import sys

import pytest

import bnlint
from bnlint import Severity

NUMBERS = itertools.count()
CLASS = """
import torch.nn as nn

class Net(BASE):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)
        INIT

    def METHOD(self):
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(layer.weight, 0, 0.02)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""


def checked(tmp_path, text, **files):
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "models").mkdir()
    for name, content in {"models/net": text, **files}.items():
        (tmp_path / f"{name}.py").write_text(content)
    spec = importlib.util.spec_from_file_location(f"unapplied_{next(NUMBERS)}", tmp_path / "models" / "net.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = bnlint.check(module.Net(), "2x3x8x8", static=True, select=["BN304"])
    return [(f.code, f.module_path, f.severity, f.location.line) for f in report.findings]


def written(base="nn.Module", init="pass", method="_initialize_weights"):
    return CLASS.replace("BASE", base).replace("INIT", init).replace("METHOD", method)


NAMES = ["_initialize_weights", "init_weights", "weights_init", "initialize_parameters", "init_params", "_weight_init"]


@pytest.mark.parametrize("name", NAMES)
def test_init_06_nothing_calls_it(tmp_path, name):
    assert checked(tmp_path, written(method=name)) == [("BN304", "", Severity.INFO, 10)]


def test_another_class_with_its_own_method_of_the_name(tmp_path):
    other = "class Other:\n    def __init__(self):\n        self.init_weights()\n    def init_weights(self): ...\n"
    found = checked(tmp_path, written(method="init_weights"), other=other)
    assert [row[0] for row in found] == ["BN304"]


@pytest.mark.parametrize(
    "text",
    [
        written(init="self._initialize_weights()"),
        written(init="type(self)._initialize_weights(self)"),
        written(init="getattr(self, '_initialize_weights')()"),
        written(method="initial_state"),
        written(method="weight_decay_groups"),
        written() + "\ndef build():\n    net = Net()\n    net._initialize_weights()\n    return net\n",
        written(init="nn.init.kaiming_normal_(self.conv.weight)"),  # initialised by other means
        "from torch import nn\nclass Base(nn.Module):\n    def init_weights(self): ...\n"
        + written(base="Base", method="init_weights"),
        written(method="other") + "\n    def init_weights(self):\n        pass\n",
        written() + "\nclass Sub(Net):\n    def start(self):\n        self._initialize_weights()\n",
    ],
)
def test_called_somehow_or_no_initialisation(tmp_path, text):
    assert checked(tmp_path, text) == []


def test_the_training_script_calls_it(tmp_path):
    script = "from models.net import Net\nmodel = Net()\nmodel._initialize_weights()\n"
    assert checked(tmp_path, written(), train=script) == []


def test_a_block_of_a_model_is_one_finding(tmp_path):
    text = written().replace("class Net", "class Block") + (
        "\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = Block(), Block()\n    def forward(self, x):\n        return self.a(x) + self.b(x)\n"
    )
    assert checked(tmp_path, text) == [("BN304", "a", Severity.INFO, 10)]
