"""What the help of the shape rules says, put into practice: the edit is applied, the finding is gone, the model runs."""

import re

import pytest
import torch

from bnlint import Severity, audit
from bnlint.job import Job
from bnlint.registry import load_rules
from bnlint.testing import examples

MODEL = """import torch
from torch import nn

# bnlint check --input {shape}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        {layers}

    def forward(self, x):
        {forward}
"""


def model(shape, layers, forward):
    return MODEL.format(shape=shape, layers="\n        ".join(layers), forward="\n        ".join(forward))


def check(folder, text):
    shape = re.search(r"--input (\S+)", text)
    path = folder / "net.py"
    path.write_text(text, encoding="utf-8")
    return audit.run(
        Job(f"{path.as_posix()}:Net", inputs=(shape[1],) if shape else (), static=True), lambda stage: None
    )


def run(text, shape):
    """The model on real data of the size that it was checked with."""
    space = {}
    exec(text, space)
    sizes, integers = re.findall(r"\d+", shape.partition("<")[0].removeprefix("int64")), shape.startswith("int64")
    sizes = [int(size) for size in sizes]
    space["Net"]()(torch.zeros(sizes, dtype=torch.long) if integers else torch.randn(sizes))


def cure(folder, code, text, edits):
    """Applies edits (old text, new text, words of the help) and checks that all is well afterwards."""
    found = [f for f in check(folder, text).findings if f.code == code]
    assert len(found) == 1, found
    for old, new, quote in edits:
        assert quote in found[0].help and quote in new, found[0].help
        assert old in text
        text = text.replace(old, new)
    report = check(folder, text)
    assert report.status == "ok"
    assert [f.code for f in report.findings if f.severity is not Severity.INFO or f.code == code] == []
    row = report.input[0]
    sizes = ",".join(map(str, row["shape"]))
    run(text, f"int64[{sizes}]" if "int" in row["dtype"] else sizes)


def same(old, new):
    return (old, new, new)


IN_THE_DOCUMENTATION = {
    "BN117": [same("nn.LayerNorm(32)", "nn.GroupNorm(1, 32)")],
    "BN201": [("nn.Conv2d(32, 64, 3,", "nn.Conv2d(in_channels=16, out_channels=64, kernel_size=3,", "in_channels=16")],
    "BN202": [same("nn.Linear(16, 16)", "nn.Conv2d(16, 16, 1)")],
    "BN203": [same("x.view(-1, 512)", "x.flatten(1)"), same("nn.Linear(512, 10)", "nn.Linear(2048, 10)")],
    "BN204": [same("nn.Linear(16 * 5 * 5, 10)", "nn.Linear(256, 10)")],
    "BN205": [same("x.reshape(n, h * w, c)", "x.permute(0, 2, 3, 1).flatten(1, 2)")],
    "BN206": [("self.value(x)", "self.value(x).squeeze(1)", ".squeeze(1)")],
    "BN207": [same("nn.Identity()", "nn.Conv2d(16, 32, 1, stride=2)")],
    "BN208": [("4x3x32x32", "4x3x69x69", "69x69")],
    "BN209": [("nn.LSTM(16, 32)", "nn.LSTM(16, 32, batch_first=True)", "batch_first=True")],
    "BN210": [same("nn.Linear(16, 16)", "nn.Conv2d(8, 8, 1)"), same("nn.Linear(24, 24)", "nn.Conv2d(8, 8, 1)")],
    "BN211": [("self.conv(x)", "self.conv(x.permute(0, 3, 1, 2))", "x.permute(0, 3, 1, 2)")],
    "BN212": [same("nn.Embedding(32, 16)", "nn.Embedding(48, 16)")],
    "BN213": [("x.view(8, 144)", "x.view(x.shape[0], 144)", "x.shape[0]")],
    "BN214": [
        ("self.relu(self.conv(x))", "nn.AdaptiveAvgPool2d(8)(self.relu(self.conv(x)))", "nn.AdaptiveAvgPool2d(8)")
    ],
    "BN215": [("transpose(1, 2).view(", "transpose(1, 2).reshape(", ".reshape(")],
}


@pytest.mark.parametrize("code", IN_THE_DOCUMENTATION)
def test_the_help_cures_the_bad_example(tmp_path, code):
    bad = next(block for block in examples(load_rules()[code]) if block.bad)
    cure(tmp_path, code, bad.source, IN_THE_DOCUMENTATION[code])


def test_every_shape_rule_has_an_edit():
    assert {code for code in load_rules() if code.startswith("BN2")} <= set(IN_THE_DOCUMENTATION)


IMAGE = "2x3x8x12"
OTHERS = {
    "missing flatten before a Linear": ("BN202", IMAGE, ["self.fc = nn.Linear(1536, 5)"], ["return self.fc(self.conv(x))"],
        [("self.conv(x)", "(lambda x: x.flatten(1))(self.conv(x))", "x.flatten(1)")]),
    "channels moved last": ("BN202", IMAGE, ["self.fc = nn.Linear(16, 5)"], ["return self.fc(self.conv(x))"],
        [("return self.fc(self.conv(x))", "x = self.conv(x)\n        return self.fc(x.movedim(1, -1)).movedim(-1, 1)",
          "self.fc(x.movedim(1, -1)).movedim(-1, 1)")]),
    "images into a Linear": ("BN201", "8x1x28x28", ["self.fc = nn.Linear(784, 5)"], ["return self.fc(x)"],
        [("self.fc(x)", "self.fc(x.flatten(1))", "x.flatten(1)")]),
    "what comes before is changed": ("BN201", "4x12", ["self.a = nn.Linear(12, 24)", "self.b = nn.Linear(20, 5)"],
        ["return self.b(torch.relu(self.a(x)))"],
        [("nn.Linear(20, 5)", "nn.Linear(in_features=24, out_features=5)", "in_features=24")]),
    "all samples in one row": ("BN203", IMAGE, ["self.fc = nn.Linear(1536, 5)"], ["x = self.conv(x)", "return self.fc(x.view(1, -1))"],
        [same("x.view(1, -1)", "x.flatten(1)")]),
    "rows that do not divide": ("BN203", IMAGE, ["self.fc = nn.Linear(500, 5)"], ["x = self.conv(x)", "return self.fc(x.view(-1, 500))"],
        [same("x.view(-1, 500)", "x.flatten(1)"), same("nn.Linear(500, 5)", "nn.Linear(1536, 5)")]),
    "results below each other": ("BN203", "4x12", ["self.a, self.b = nn.Linear(12, 8), nn.Linear(12, 8)", "self.fc = nn.Linear(8, 5)"],
        ["return self.fc(torch.relu(torch.cat((self.a(x), self.b(x)))))"],
        [("self.b(x)))", "self.b(x)), dim=1)", "dim=1)"), same("nn.Linear(8, 5)", "nn.Linear(16, 5)")]),
    "results below each other, a Linear for all": ("BN203", "4x12",
        ["self.a, self.b = nn.Linear(12, 8), nn.Linear(12, 8)", "self.fc = nn.Linear(16, 5)"],
        ["return self.fc(torch.relu(torch.cat((self.a(x), self.b(x)))))"], [("self.b(x)))", "self.b(x)), dim=1)", "dim=1)")]),
    "pooling instead of another size": ("BN204", IMAGE, ["self.fc = nn.Linear(16 * 25, 5)"], ["return self.fc(self.conv(x).flatten(1))"],
        [("self.conv(x)", "nn.AdaptiveAvgPool2d(5)(self.conv(x))", "nn.AdaptiveAvgPool2d(5)")]),
    "pooling to one position": ("BN204", IMAGE, ["self.fc = nn.Linear(1000, 5)"], ["return self.fc(self.conv(x).flatten(1))"],
        [("self.conv(x)", "nn.AdaptiveAvgPool2d(1)(self.conv(x))", "nn.AdaptiveAvgPool2d(1)"), same("nn.Linear(1000, 5)", "nn.Linear(16, 5)")]),
    "view of another size": ("BN204", IMAGE, ["self.fc = nn.Linear(512, 5)"], ["x = self.conv(x)", "return self.fc(x.view(x.shape[0], 512))"],
        [same("x.view(x.shape[0], 512)", "x.flatten(1)"), ("nn.Linear(512, 5)", "nn.Linear(1536, 5)", "1536")]),
    "heads merged": ("BN205", "2x10x24", ["self.q = nn.Linear(24, 24)"],
        ["n, t, c = x.shape", "x = self.q(x).view(n, t, 4, 6).transpose(1, 2)", "x = (x @ x.transpose(-1, -2) / 6).softmax(-1) @ x",
         "return x.reshape(n, t, c)"],
        [same("x.reshape(n, t, c)", "x.transpose(1, 2).flatten(2, 3)")]),
    "as many positions as channels": ("BN205", "2x3x4x4", ["self.fc = nn.Linear(16, 5)"],
        ["x = self.conv(x)", "return self.fc(x.view(x.shape[0], -1, x.shape[1]))"],
        [same("x.view(x.shape[0], -1, x.shape[1])", "x.permute(0, 2, 3, 1).flatten(1, 2)")]),
    "a map against a mask": ("BN206", IMAGE, ["self.one = nn.Conv2d(16, 1, 1)"],
        ["x = torch.relu(self.conv(x))", "return self.one(x).sigmoid() * x.amax(1)"],
        [("x.amax(1)", "x.amax(1).unsqueeze(1)", ".unsqueeze(1)")]),
    "another resolution": ("BN207", "2x3x9x12", ["self.down = nn.Conv2d(16, 16, 3, stride=2, padding=1)", "self.up = nn.ConvTranspose2d(16, 16, 2, 2)"],
        ["b = self.conv(x)", "a = self.up(torch.relu(self.down(torch.relu(b))))", "return torch.cat([a, b], 1)"],
        [("[a, b]", "[nn.functional.interpolate(a, size=b.shape[-2:]), b]", "interpolate(a, size=b.shape[-2:])")]),
    "axes in another order": ("BN207", "2x5x7", ["self.a, self.b = nn.Linear(7, 8), nn.Linear(7, 8)"],
        ["b = self.b(x).transpose(1, 2)", "return self.a(x) * b"], [("return self.a(x) * b", "return self.a(x) * b.permute(0, 2, 1)", "b.permute(0, 2, 1)")]),
    "a product of two tables": ("BN207", "2x5x7", ["self.a, self.b = nn.Linear(7, 8), nn.Linear(7, 8)"],
        ["b = self.b(x)", "return self.a(x) @ b"], [("@ b", "@ b.transpose(-1, -2)", "b.transpose(-1, -2)")]),
    "features that differ": ("BN207", "4x12", ["self.a, self.b = nn.Linear(12, 8), nn.Linear(12, 6)", "self.p = nn.Identity()"],
        ["return torch.tanh(self.a(x)) + self.p(torch.tanh(self.b(x)))"], [same("nn.Identity()", "nn.Linear(6, 8)")]),
    "an edge too small to mirror": ("BN208", "2x3x8x8", ["self.down = nn.Conv2d(16, 8, 3, stride=4)", "self.pad = nn.ReflectionPad2d(3)"],
        ["return self.pad(self.down(torch.relu(self.conv(x))))"], [("2x3x8x8", "2x3x15x15", "15x15")]),
    "one sequence without a batch": ("BN209", IMAGE, ["self.rnn = nn.LSTM(16, 5)"], ["x = self.conv(x).mean((2, 3))", "return self.rnn(x)[0]"],
        [("nn.LSTM(16, 5)", "nn.LSTM(16, 5, batch_first=True)", "batch_first=True"), ("self.rnn(x)", "self.rnn(x.unsqueeze(1))", "x.unsqueeze(1)")]),
    "transposed before and after": ("BN209", IMAGE, ["self.rnn = nn.GRU(16, 5)"], ["x = self.conv(x).flatten(2).transpose(1, 2)", "return self.rnn(x)[0]"],
        [("self.rnn(x)[0]", "self.rnn(x.transpose(0, 1))[0].transpose(0, 1)", "self.rnn(x.transpose(0, 1))")]),
    "two flattened maps": ("BN210", "2x3x8x8", ["self.f, self.g = nn.Linear(16 * 64, 5), nn.Linear(16 * 81, 5)"],
        ["x = torch.relu(self.conv(x))", "return self.f(x.flatten(1)), self.g(x.flatten(1))"],
        [("self.f(x.flatten(1))", "self.f(nn.AdaptiveAvgPool2d(8)(x).flatten(1))", "nn.AdaptiveAvgPool2d(8)"),
         ("self.g(x.flatten(1))", "self.g(nn.AdaptiveAvgPool2d(9)(x).flatten(1))", "nn.AdaptiveAvgPool2d(9)")]),
    "a table of positions": ("BN212", "int64[4,16]<50", ["self.words = nn.Embedding(50, 8)", "self.table = nn.Parameter(torch.randn(1, 12, 8))"],
        ["return self.words(x) + self.table[:, : x.shape[1]]"], [("(1, 12, 8)", "(1, 16, 8)", "16")]),
    "a squeeze": ("BN213", "4x3x6x6", ["self.fc = nn.Linear(16, 5)"],
        ["x = torch.relu(self.conv(x)).mean((2, 3), keepdim=True)", "return self.fc(x.squeeze())"],
        [("squeeze()", "squeeze((2, 3))", "squeeze((2, 3))")]),
    "a parameter for every sample": ("BN213", "4x12", ["self.a, self.b = nn.Linear(12, 6), nn.Parameter(torch.randn(4, 1))"],
        ["return self.a(x) * self.b"], [("(4, 1)", "(1, 1)", "1, 1")]),
    "a state for every sample": ("BN213", "4x5x12", ["self.rnn = nn.GRU(12, 6, batch_first=True)", "self.b = nn.Parameter(torch.randn(1, 4, 6))"],
        ["return self.rnn(x, self.b)[0]"], [("(1, 4, 6)", "(1, 1, 6)", "1, 1, 6"), ("self.b)", "self.b.expand(1, x.shape[0], 6).contiguous())", "expand")]),
    "a norm of sequences": ("BN117", "int64[4,16]<9", ["self.e, self.norm = nn.Embedding(9, 16), nn.BatchNorm1d(16)"],
        ["x = self.e(x)", "return self.norm(x)"], [same("self.norm(x)", "self.norm(x.transpose(1, 2)).transpose(1, 2)")]),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_the_help_cures_the_model(tmp_path, name):
    code, shape, layers, forward, edits = OTHERS[name]
    if "self.conv" not in "".join(forward):
        layers = ["del self.conv", *layers]
    cure(tmp_path, code, model(shape, layers, forward), edits)
