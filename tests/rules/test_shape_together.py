"""The whole shape family at once: several bugs in one run."""

import torch
from torch import nn

from .nets import line_of

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
