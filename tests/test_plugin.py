"""The example plugin, installed into a folder of its own as pip installs it anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin in it; pip needs neither an index nor a network for it."""
    pytest.importorskip("hatchling")
    source, site = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN, source)
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True, timeout=120)
    return site


def run(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=site, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_its_rule_is_listed_and_found(installed: Path) -> None:
    rows = {row["code"]: row for row in json.loads(run(installed, "bnlint", "rules", "--json").stdout)}
    assert (rows["LAB101"]["name"], rows["LAB101"]["enabled"]) == ("heavy-flatten", True)
    (installed / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, 4, 3)\n        self.fc = nn.Linear(4 * 26 * 26, 10)\n\n"
        "    def forward(self, x):\n        return self.fc(self.conv(x).relu().flatten(1))\n"
    )
    done = run(installed, "bnlint", "check", "net.py:Net", "--output-format", "concise", "--no-cache")
    assert (done.returncode, "net.py:8:19: LAB101 warning heavy-flatten" in done.stdout) == (1, True)


def test_its_own_test_passes(installed: Path) -> None:
    done = run(installed, "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN))
    assert (done.returncode, "1 passed" in done.stdout) == (0, True)
