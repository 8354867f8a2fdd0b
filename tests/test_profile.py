"""The signal by depth: its rows, the text of `-v` and the picture of `--plot`."""

import pytest
import torch
from torch import nn

import bnlint
from bnlint.cli import main
from bnlint.report.plot import plot
from bnlint.report.profile import profile_lines

X = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return x + self.outer(self.inner(self.norm(x)).relu())


def dying(depth=10):
    torch.manual_seed(0)
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 4))


def healthy(depth=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), *[Block() for _ in range(depth)], nn.LayerNorm(64), nn.Linear(64, 4))


def rows(model):
    return bnlint.check(model, X, select=["BN6", "BN7"]).targets[0].profile


def test_a_signal_that_dies():
    found = rows(dying())
    assert [row["kind"] for row in found] == ["layer"] * 11 and found[0]["name"] == "0"
    assert found[0]["spread"] == 1 and found[-1]["spread"] < 1e-3
    assert found[-2]["gradient"] == 1 and found[0]["gradient"] < 1e-2 and found[-1]["gradient"] is None


def test_a_healthy_signal_stays_in_the_band():
    found = rows(healthy())
    assert [row["kind"] for row in found] == ["layer", *["skip"] * 4, "norm", "layer"]
    assert all(0.05 < row["spread"] < 20 for row in found)


def test_pooling_is_no_decay():
    torch.manual_seed(0)
    layers = [
        m for c in (3, 16, 16) for m in (nn.Conv2d(c, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    *_, head = bnlint.check(model, images, select=["BN6", "BN7"]).targets[0].profile
    assert 0.05 < head["spread"] < 20


def test_nothing_is_drawn_of_what_was_not_measured():
    assert bnlint.check(dying(), X, static=True).targets[0].profile == []
    assert profile_lines([], 100) == []


def cells(line):
    return line[line.index("|") + 1 : line.rindex("|")]


def test_text_shows_the_decay():
    lines = [line for line in profile_lines(rows(dying()), 100) if "|" in line]
    spread = [cells(line).replace("8", "o").index("o") for line in lines]
    assert spread == sorted(spread, reverse=True) and spread[0] - spread[-1] > 15
    assert "." not in cells(lines[-1])[spread[-1] - 1 : spread[-1] + 2]  # it ends outside the band


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("count", [3, 24, 300])
def test_text_fits(count, width):
    data = [
        {"name": f"layer{i}" * 9, "kind": "norm", "spread": 0.0 if i else 1.0, "gradient": 1e30} for i in range(count)
    ]
    lines = profile_lines(data, width)
    assert len(lines) <= 27 and len({len(line) for line in lines if "|" in line}) == 1


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_picture(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    report = bnlint.check(dying(), X, select=["BN6", "BN7"])
    files = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for file in files:
        plot(report, file)
    assert files[0].stat().st_size > 5000 and files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("file", ["signal.pdf", "absent/signal.svg"])
def test_pictures_that_cannot_be_drawn(tmp_path, capsys, file):
    assert main(["check", "net.py:Net", "--plot", str(tmp_path / file)]) == 2
    assert "Traceback" not in capsys.readouterr().err
