"""Five bugs in one model, drawn from twelve: each is found once, at its line, and none echoes as another.

Each bug is a few lines that read the same feature map and add a result of their own; some hand on a broken value.
"""

import random

import pytest
import torch

from bnlint import audit
from bnlint.job import Job

MODEL = """import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        {layers}

    def forward(self, x):
        x = torch.relu(self.stem(x))
        n, c, h, w = x.shape
        p = x.mean((2, 3))
        out = []
        {forward}
        return out
"""
# code: layers, lines of forward; the lines that a finding may point at are marked with "  #!"
BUGS = {
    "BN101": (["self.bn = nn.BatchNorm1d(24)  #!"], ["out.append(self.bn(x))"]),
    "BN117": (["self.ln = nn.LayerNorm(12)  #!"], ["out.append(self.ln(x))"]),
    "BN201": (["self.wide = nn.Linear(25, 5)  #!"], ["out.append(self.wide(p))"]),
    "BN202": (["self.mix = nn.Linear(16, 16)  #!"], ["out.append(self.mix(x))"]),
    "BN203": (["self.fold = nn.Linear(8, 5)"], ["out.append(self.fold(p.view(-1, 8)))  #!"]),
    "BN204": (["self.flat = nn.Linear(24 * 25, 5)  #!"], ["out.append(self.flat(x.flatten(1)))"]),
    "BN205": ([], ["out.append(x.view(n, h * w, c).softmax(-1))  #!"]),
    "BN206": (
        ["self.v, self.u = nn.Linear(24, 1), nn.Linear(24, 1)"], ["out.append(self.v(p).tanh() * self.u(p)[:, 0])  #!"]
    ),
    "BN207": (["self.block = nn.Conv2d(24, 32, 3, padding=1)"], ["out.append(self.block(x).tanh() + x)  #!"]),
    "BN208": (["self.big = nn.Conv2d(24, 8, 15)  #!"], ["out.append(self.big(x))"]),
    "BN209": (["self.rnn = nn.LSTM(24, 8)  #!"], ["out.append(self.rnn(x.flatten(2).transpose(1, 2))[0])"]),
    "BN212": (
        ["self.table = nn.Embedding(40, 8)  #!"], ["out.append(self.table(torch.arange(h * w)))"]
    ),
    "BN213": (["self.sq = nn.Linear(24, 5)"], ["out.append(self.sq(x.amax((2, 3), keepdim=True).squeeze()))  #!"]),
}  # fmt: skip
RIGHT = (
    ["self.ok = nn.Conv2d(24, 24, 1)", "self.tok = nn.Linear(24, 24)"],
    ["x = x + torch.relu(self.ok(x))", "out.append(self.tok(x.flatten(2).transpose(1, 2)))"],
)


def combined(codes, spoilt):
    """The text of a model with these bugs; with `spoilt`, well-made lines stand between them."""
    parts = [BUGS[code] for code in codes]
    if spoilt:
        parts.insert(len(parts) // 2, RIGHT)
    layers, forward = ([line for part in parts for line in part[i]] or ["pass"] for i in (0, 1))
    return MODEL.format(layers="\n        ".join(layers), forward="\n        ".join(forward))


def marked(text, codes):
    """{code: the line that a finding may point at}."""
    lines = text.splitlines()
    found = {}
    for code in codes:
        (mark,) = (line for part in BUGS[code] for line in part if line.endswith("#!"))
        found[code] = next(i for i, line in enumerate(lines, 1) if line.strip() == mark)
    if {"BN202", "BN204"} <= found.keys():  # a width of 16 and 25 positions: no input size gives both
        found["BN210"] = found[max(("BN202", "BN204"), key=list(codes).index)]
    return found


def check(folder, text):
    path = folder / "net.py"
    path.write_text(text, encoding="utf-8")
    report = audit.run(Job(f"{path.as_posix()}:Net", inputs=("4x3x32x48",), static=True), lambda stage: None)
    return [(f.code, f.location.line) for f in report.findings if f.code in BUGS or f.code[2] in "29"]


@pytest.mark.parametrize("seed", range(24))
def test_five_of_them(tmp_path, seed):
    drawn = random.Random(seed)
    codes = drawn.sample(sorted(BUGS), 5)
    text = combined(codes, spoilt=drawn.random() < 0.5)
    found = [row for row in check(tmp_path, text) if row[0] != "BN214"]
    assert sorted(found) == sorted(marked(text, codes).items())


def test_all_of_them(tmp_path):
    text = combined(BUGS, spoilt=True)
    assert sorted(check(tmp_path, text)) == sorted(marked(text, BUGS).items())


def test_none_of_them(tmp_path):
    assert check(tmp_path, combined([], spoilt=True)) == []


def test_the_well_made_part_runs():
    space = {}
    exec(combined([], spoilt=True), space)
    assert len(space["Net"]()(torch.randn(4, 3, 32, 48))) == 1
