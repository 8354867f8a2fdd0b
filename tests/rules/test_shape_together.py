"""The whole shape family at once: several bugs in one run, and what the help says put into practice."""

import re

import pytest
import torch
from nets import line_of
from torch import nn

from bnlint import Severity
from bnlint.registry import load_rules
from bnlint.testing import examples, run_example

F = nn.functional


def places(rows, codes=("BN1", "BN2", "BN9")):
    """{code: (line that builds, line that calls)} of every finding; a code that occurs twice fails the test."""
    chosen = [(code, f) for (code, _), f in rows.items() if code.startswith(codes)]
    assert len({code for code, _ in chosen}) == len(chosen), [(c, f.message) for c, f in chosen]
    return {code: (f.location.line, f.call.line if f.call else None) for code, f in chosen}


class Chain(nn.Module):
    """Each bug lies behind the one before it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.block = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.next = nn.Conv2d(32, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.tail = nn.Conv2d(8, 8, 7)
        self.again = nn.AdaptiveAvgPool2d(3)
        self.fc = nn.Linear(8 * 5 * 5, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.block(x) + x)
        x = self.pool(F.relu(self.next(x)))
        x = self.again(F.relu(self.tail(x)))
        return self.fc(x.flatten(1))


def test_five_bugs_in_a_row(found):
    rows = found(Chain(), "4x3x32x32")
    assert places(rows, ("BN2", "BN9")) == {
        "BN201": (line_of(Chain, "self.norm ="), line_of(Chain, "self.norm(")),
        "BN207": (line_of(Chain, "self.block(x) + x"), None),
        "BN208": (line_of(Chain, "self.tail ="), line_of(Chain, "self.tail(x)")),
        "BN204": (line_of(Chain, "self.fc ="), line_of(Chain, "self.fc(x")),
    }


class Branches(nn.Module):
    """Bugs side by side, the silent ones among them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        self.mix = nn.Linear(24, 24)
        self.rnn = nn.LSTM(24, 24)
        self.score = nn.Linear(24, 1)
        self.weight = nn.Linear(24, 1)
        self.norm = nn.BatchNorm1d(24)
        self.fold = nn.Linear(12, 5)
        self.wide = nn.Linear(25, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        n, c, h, w = x.shape
        a = self.mix(x)
        b = self.rnn(x.flatten(2).transpose(1, 2))[0]
        tokens = x.view(n, h * w, c)
        pooled = x.mean((2, 3))
        d = self.score(pooled) + self.weight(pooled)[:, 0]
        e = self.norm(x)
        g = self.fold(pooled.view(-1, 12))
        k = self.wide(pooled)
        return a, b, tokens, d, e, g, k


def test_eight_bugs_side_by_side(found):
    rows = found(Branches(), "4x3x32x48")
    assert places(rows) == {
        "BN202": (line_of(Branches, "self.mix ="), line_of(Branches, "self.mix(x)")),
        "BN209": (line_of(Branches, "self.rnn ="), line_of(Branches, "self.rnn(x")),
        "BN205": (line_of(Branches, "x.view(n"), None),
        "BN206": (line_of(Branches, "self.score(pooled) +"), None),
        "BN101": (line_of(Branches, "self.norm ="), line_of(Branches, "self.norm(x)")),
        "BN203": (line_of(Branches, "pooled.view(-1"), None),
        "BN201": (line_of(Branches, "self.wide ="), line_of(Branches, "self.wide(pooled)")),
    }


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.places = nn.Parameter(torch.randn(1, 8, 16))
        self.rnn = nn.GRU(16, 12)
        self.down = nn.Conv1d(12, 6, 3)
        self.fc = nn.Linear(5, 3)

    def forward(self, ids):
        x = self.words(ids) + self.places[:, : ids.shape[1]]
        x = self.rnn(x)[0].view(ids.shape[0], -1, 12)[:, -1]
        return self.fc(x)


def test_bugs_of_a_text_model(found):
    ids = torch.arange(40).view(4, 10) + 5
    rows = found(Text(), {"ids": ids})
    chosen = {code for code, _ in rows if code.startswith("BN2") or code.startswith("BN9")}
    assert chosen == {"BN212", "BN201", "BN209"}
    assert {path for code, path in rows if code == "BN212"} == {"words", ""}


# -- the help, put into practice -------------------------------------------------------------------------------------

EDITS = {
    "BN117": ("nn.LayerNorm(32)", "nn.GroupNorm(1, 32)"),
    "BN201": ("nn.Conv2d(32, 64,", "nn.Conv2d(in_channels=16, out_channels=64, kernel_size=", "in_channels=16"),
    "BN202": ("nn.Linear(16, 16)", "nn.Conv2d(16, 16, 1)"),
    "BN203": (("x.view(-1, 512)", "nn.Linear(512, 10)"), ("x.flatten(1)", "nn.Linear(2048, 10)")),
    "BN204": ("nn.Linear(16 * 5 * 5, 10)", "nn.Linear(256, 10)"),
    "BN205": ("x.reshape(n, h * w, c)", "x.permute(0, 2, 3, 1).flatten(1, 2)"),
    "BN206": ("self.value(x)", "self.value(x).squeeze(1)", ".squeeze(1)"),
    "BN207": ("nn.Identity()", "nn.Conv2d(16, 32, 1, stride=2)"),
    "BN208": ("4x3x32x32", "4x3x69x69", "69x69"),
    "BN209": ("nn.LSTM(16, 32)", "nn.LSTM(16, 32, batch_first=True)", "batch_first=True"),
    "BN211": ("self.conv(x)", "self.conv(x.permute(0, 3, 1, 2))", "x.permute(0, 3, 1, 2)"),
    "BN212": ("nn.Embedding(32, 16)", "nn.Embedding(48, 16)"),
    "BN213": ("x.view(8, 144)", "x.view(x.shape[0], 144)", "x.shape[0]"),
    "BN214": ("self.relu(self.conv(x))", "nn.AdaptiveAvgPool2d(8)(self.relu(self.conv(x)))", "nn.AdaptiveAvgPool2d(8)"),
}


@pytest.mark.parametrize("code", EDITS)
def test_the_help_cures_the_bad_example(code):
    import dataclasses

    bad = next(block for block in examples(load_rules()[code]) if block.bad)
    (finding,) = (f for f in run_example(bad).findings if f.code == code)
    old, new, *word = EDITS[code]
    pairs = list(zip(old, new, strict=True)) if isinstance(old, tuple) else [(old, new)]
    for _, fragment in pairs:
        assert (word[0] if word else fragment) in finding.help, finding.help
    text = bad.source
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    report = run_example(dataclasses.replace(bad, source=text))
    assert report.status == "ok" and not [f for f in report.findings if f.severity is not Severity.INFO], (
        report.findings
    )
    space = {}
    exec(text, space)  # and it runs on real data
    shape = re.search(r"--input (?:int64\[)?([\dx,]+)", text)
    sizes = [int(size) for size in re.split("[x,]", shape[1])] if shape else None
    if code in ("BN209", "BN212"):
        space["Net"]()(torch.zeros(sizes or (8, 10), dtype=torch.long))
    else:
        space["Net"]()(torch.randn(sizes or ((8, 12) if code == "BN206" else (8, 3, 32, 32))))
