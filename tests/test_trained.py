"""Rules about the start of training say nothing of trained weights in eval mode."""

import pytest
import torch

from bnlint import audit
from bnlint.job import Job

SOURCE = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(*[m for _ in range(12) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 4))
"""


@pytest.mark.parametrize(
    ("weights", "mode", "runs"),
    [(True, "eval", False), (True, "train", True), (False, "eval", True), (False, "train", True)],
)
def test_rules_about_the_start(tmp_path, weights, mode, runs):
    (tmp_path / "net.py").write_text(SOURCE)
    states = {}
    exec(SOURCE, states)  # the same architecture, with the weights of another seed
    torch.save(states["Net"]().state_dict(), tmp_path / "w.pt")
    job = Job(
        f"{tmp_path / 'net.py'}:Net",
        inputs=("32x64",),
        mode=mode,
        weights=str(tmp_path / "w.pt") if weights else None,
        select=("BN601", "BN607", "BN701"),
    )
    report = audit.run(job, lambda stage: None)
    assert report.status == "ok"
    assert ("BN601" in {finding.code for finding in report.findings}) == runs
    assert {row["code"] for row in report.skipped_rules} == (set() if runs else {"BN601", "BN701"})


def test_eval_mode_has_no_gap_to_measure(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    report = audit.run(Job(f"{tmp_path / 'net.py'}:Net", inputs=("8x64",), mode="eval", select=("BN609",)), print)
    assert (report.status, report.findings, report.skipped_rules) == ("ok", [], [])
