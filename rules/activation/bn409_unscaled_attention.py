"""BN409 unscaled-attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class UnscaledAttention(Rule):
    """Attention scores q·kᵀ reach a softmax without the factor 1/√d, and they are large.

    Why it matters: a product of two vectors of d unit-variance entries has a standard deviation of √d. With d = 64 the
    scores have a standard deviation of 8: over 64 keys the largest weight is then 0.80 on average (measured) where it
    is 0.11 with scaled scores, so that each query looks at one random key, and the sum of the softmax's slopes p(1 - p)
    is 0.28 where it is 0.96. Training starts from a hard, random choice that it can hardly take back.

    The rule looks at the size, not only at the missing factor: it takes the probe's measurement where there is one,
    else what the query and key weights make of unit inputs. T5 has no factor and initialises its weights for that.
    From a standard deviation of 4 on it warns, from 2 on it remarks.

    Example (bad):

    ```python
    # bnlint check --input 4x20x256
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(256)
            self.q = nn.Linear(256, 256)
            self.k = nn.Linear(256, 256)
            self.v = nn.Linear(256, 256)
            self.out = nn.Linear(256, 256)

        def forward(self, x):
            x = self.norm(x)
            scores = self.q(x) @ self.k(x).transpose(1, 2)
            return self.out(scores.softmax(-1) @ self.v(x))
    ```

    Use instead (good):

    ```python
    # bnlint check --input 4x20x256
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(256)
            self.q = nn.Linear(256, 256)
            self.k = nn.Linear(256, 256)
            self.v = nn.Linear(256, 256)
            self.out = nn.Linear(256, 256)

        def forward(self, x):
            x = self.norm(x)
            scores = self.q(x) @ self.k(x).transpose(1, 2) / 256 ** 0.5
            return self.out(scores.softmax(-1) @ self.v(x))
    ```

    Known limits: any multiplication or norm on the way from the projections to the softmax counts as a scale, rotary
    positions too; scores of vectors that no Linear or conv makes are judged by measurement only.

    References: Vaswani et al. 2017, Attention is all you need (arXiv 1706.03762), section 3.2.1; Raffel et al. 2020
    (T5, arXiv 1910.10683) for attention that is unscaled by design.
    """

    code = "BN409"
    name = "unscaled-attention"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    min_head_size: int = 16  # shorter vectors are not reported
    max_logit_std: float = 4.0  # a larger standard deviation of the scores is a warning
    note_logit_std: float = 2.0  # and from here on a remark

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Walks from every softmax back to the product of two projections."""
        from bnlint.graph.attention import unscaled_scores

        graph = model.graph
        assert graph is not None
        for scores in unscaled_scores(graph):
            measured = model.probe.stats.get(scores.product.name) if model.probe is not None else None
            std = measured.std if measured is not None and measured.std is not None else scores.predicted_std
            if scores.head_size <= self.min_head_size or std is None or std < self.note_logit_std:
                continue
            how = "measured" if measured is not None and measured.std is not None else "predicted from the weights"
            yield self.finding(
                model.place(scores.product),
                f"attention scores of {scores.head_size} features reach the softmax unscaled: "
                f"their standard deviation is {std:.1f} ({how})",
                help=f"divide by {scores.head_size} ** 0.5, or use `F.scaled_dot_product_attention`",
                severity=Severity.WARNING if std > self.max_logit_std else Severity.INFO,
                evidence={"head_size": scores.head_size, "std": round(std, 3), "measured": how == "measured"},
            )
