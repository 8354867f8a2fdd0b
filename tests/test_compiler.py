"""A check does without torch's compiler, which takes longer to import than torch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MODEL = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 2))
"""
CHECK = """
import sys
import bnlint
from net import Net
report = bnlint.check(Net(), inputs=None)
assert report.targets[0].status == "ok", report.targets[0].findings
"""


def run(folder, code):
    (folder / "net.py").write_text(MODEL)
    return subprocess.run(
        [sys.executable, "-c", CHECK + code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('torch._dynamo' in sys.modules, 'torch._dynamo.config' in sys.modules)", "False False"),
        ("import torch; print(torch._dynamo.is_compiling(), torch._dynamo.__spec__.name)", "False torch._dynamo"),
        ("import torch; print(torch.compile(Net(), backend='eager')(torch.ones(2, 3, 8, 8)).shape)", "[2, 2]"),
    ],
    ids=["not imported", "real afterwards", "compiles afterwards"],
)
def test_compiler_is_left_alone(tmp_path, code, said):
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_a_model_that_needs_the_compiler_gets_it(tmp_path):
    model = """
    class Asks(Net):
        def forward(self, x):
            import torch._dynamo
            from torch._dynamo.source import ConstantSource
            return super().forward(x) * (2 if torch._dynamo.is_compiling() else 1)
    report = bnlint.check(Asks(), inputs=None)
    print(report.targets[0].status)
    """
    done = run(tmp_path, textwrap.dedent(model))
    assert done.stdout.strip().endswith("ok"), done.stderr


COMPILED = """
    import torch
    from torch import nn
    compiled = []

    def backend(module, inputs):
        compiled.append(module)
        return module.forward

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.compile(Net(), backend=backend)
        def forward(self, x):
            return self.part(x)

    class InPlace(Part):
        def __init__(self):
            super().__init__()
            self.part = Net()
            self.part.compile(backend=backend)

    class Method(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Net()
        @torch.compile(backend=backend)
        def forward(self, x):
            return self.part(x)

    class Inside(Method):
        def forward(self, x):
            return torch.compile(self.part, backend=backend)(x)

    for model in (Part(), InPlace(), Method(), Inside()):
        (report,) = bnlint.check(model, static=STATIC).targets
        assert report.status == "ok", report.findings
        assert report.ops > 5
        assert not compiled, type(model)
    model(torch.ones(2, 3, 8, 8))
    assert len(compiled) == 1
    print("fine")
"""


@pytest.mark.parametrize("static", [True, False])
def test_compiled_parts_run_eagerly(tmp_path, static):
    done = run(tmp_path, textwrap.dedent(COMPILED).replace("STATIC", str(static)))
    assert done.stdout.strip().endswith("fine"), done.stderr
