"""Layers of width zero, which some configurations leave behind: no rule trips over a weight without entries."""

import torch
from torch import nn

import bnlint


class Net(nn.Module):
    """A branch whose width an option sets to zero."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.none, self.back = nn.Linear(16, 0), nn.Linear(0, 16)
        self.norm, self.table = nn.LayerNorm(16), nn.Embedding(0, 16)
        self.conv = nn.Conv1d(16, 16, 3, groups=16, padding=1)
        self.empty = nn.Parameter(torch.empty(0, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.body(x))
        x = x + self.back(torch.relu(self.none(x))) + self.empty.sum()
        return self.head(self.norm(self.conv(x[:, :, None]).flatten(1)))


def test_no_rule_trips_over_an_empty_weight():
    report = bnlint.check(Net(), inputs="8x8")
    assert [f.message for f in report.findings if f.code in ("BN903", "BN909")] == []
    assert report.targets[0].status == "ok"
