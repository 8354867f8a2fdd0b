"""The script that measures the coverage, on a corpus of seven small models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELS = """
import os
import torch
from torch import nn

class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU())

class Told(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
    def forward(self, x):
        if x.shape != (7, 5, 3):
            raise ValueError("not this one")
        return self.layer(x)

class Broken(Told):
    def forward(self, x):
        raise ValueError("never")

class Unready(Told):
    def forward(self, x):
        if self.training:
            raise ValueError("not to train")
        return self.layer(x)

class Dies(Told):
    def forward(self, x):
        os._exit(3)

class Hangs(Told):
    def forward(self, x):
        while True:
            pass
"""
EXPECTED = {
    "Plain": ("ok", "inferred"),
    "Told": ("ok", "given"),
    "Broken": ("not runnable", None),
    "Unready": ("failed", None),
    "Dies": ("crash", None),
    "Hangs": ("timeout", None),
    "Missing": ("not built", None),
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_the_status_of_every_kind_of_model(tmp_path: Path) -> None:
    checkout = tmp_path / "someone__models"
    checkout.mkdir()
    (checkout / "models.py").write_text(MODELS)
    rows = [{"target": f"models.py:{name}()", "inputs": ["7x5x3"]} for name in EXPECTED]
    listing, results, page = tmp_path / "list.json", tmp_path / "results.json", tmp_path / "page.md"
    listing.write_text(json.dumps([{"url": "https://example.org/someone/models", "commit": "0", "models": rows}]))
    options = ["--corpus", "repositories", "--repositories", tmp_path, "--list", listing, "--timeout", "2"]
    script = ROOT / "benchmarks" / "coverage.py"
    command = [sys.executable, script, *options, "--results", results, "-o", page]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=300, cwd=tmp_path)
    found = {row["name"].partition(":")[2]: row for row in json.loads(results.read_text())}
    for name, (status, source) in EXPECTED.items():
        row = found[f" models.py:{name}()"]
        assert row["status"] == status, row
        assert source is None or row["input"] == source
    text = page.read_text()
    assert "| repositories | 7 | 5 | 2 (40.0 %) | 1 (20.0 %) | 0 | 1 | 1 | 1 |" in text
    assert all(f"{name}()`: {status}." in text for name, (status, _) in EXPECTED.items() if status != "ok")
