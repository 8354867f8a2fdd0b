"""BN111 frozen-norm-training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.model import AuditedModel


class FrozenNormTraining(Rule):
    """A norm that is meant to be frozen still normalises by the batch and updates its statistics in training mode.

    Why it matters: `requires_grad_(False)` stops the optimizer, not the buffers. With momentum 0.1 the running mean and
    variance forget 90 % of what was loaded within 22 steps, so a frozen pretrained backbone is not frozen: it drifts to
    the new data, and what it was trained with is lost even when the data are the same in kind but the batches small.
    `eval()` does stop them, but only until the next `model.train()`, which every training loop calls once an epoch.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
            )
            for parameter in self.backbone.parameters():
                parameter.requires_grad = False
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            return self.fc(self.backbone(x).mean(dim=(2, 3)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
            )
            for parameter in self.backbone.parameters():
                parameter.requires_grad = False
            self.fc = nn.Linear(16, 10)

        def train(self, mode=True):
            super().train(mode)
            self.backbone.eval()
            return self

        def forward(self, x):
            return self.fc(self.backbone(x).mean(dim=(2, 3)))
    ```

    Known limits: a model without any trainable parameter is not trained and not reported; neither is the copy of a
    trained part (a momentum encoder or teacher), whose norms follow the batch on purpose. An `eval()` that your
    training script calls after each `model.train()` is not visible here; one in `forward` or in a hook of the model is.

    References: documentation of `torch.nn.BatchNorm2d`; github.com/lightly-ai/lightly issue 1438 and
    github.com/poppinace/indexnet_matting issue 35, real cases.
    """

    code = "BN111"
    name = "frozen-norm-training"
    severity = Severity.WARNING
    phase = Phase.MODULES

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at every norm with running statistics in training mode; the parts that hold them are one finding."""
        from bnlint.graph.statements import calls_after_construction

        if not any(p.requires_grad for p in model.module.parameters()):
            return
        norms = {path: m for path, m in model.modules.items() if _updates(m)}
        trained = {_inner(path) for path, m in norms.items() if any(p.requires_grad for p in m.parameters())}
        frozen = [p for p, m in norms.items() if _is_frozen(m) and not ("." in p and _inner(p) in trained)]
        woken = [] if calls_after_construction(model.module, "eval") else [p for p in norms if p in model.built_in_eval]
        woken = [path for path in woken if path not in frozen]
        if frozen:
            what = "weight and bias do not train, but the running statistics change in every training step"
            yield self._finding(model, frozen, f"{_count(frozen, 'frozen norm')}: {what}")
        if woken:
            what = "put in eval mode at construction, which the first `model.train()` undoes"
            yield self._finding(model, woken, f"{_count(woken, 'norm')} {what}: the running statistics change")

    def _finding(self, model: AuditedModel, paths: list[str], message: str) -> Finding:
        return self.finding(
            model.place(path=paths[0]),
            message,
            help="keep them in eval mode: override `train()` and call `.eval()` on that part there",
            evidence={"norms": len(paths)},
            others=[model.place(path=path) for path in paths[1:]],
        )


def _count(paths: list[str], what: str) -> str:
    return f"{len(paths)} {what}{'s' * (len(paths) > 1)}"


def _updates(module: nn.Module) -> bool:
    from torch import nn

    kept = isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    return kept and module.training and getattr(module, "momentum", 0.1) != 0


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _inner(path: str) -> str:
    """The path below the first level: equal for a trained encoder and its copy."""
    return path.partition(".")[2]
