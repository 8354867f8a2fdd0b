"""BN305 shifted-weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    import torch

    from bnlint.graph.model import AuditedModel
    from bnlint.signal.schemes import Recognition


class ShiftedWeights(Rule):
    """The random weights of a layer are not centred: their mean is more than half their standard deviation.

    Why it matters: a common mean μ adds the same number, μ times the sum of the inputs, to every unit. Behind a ReLU
    that sum grows with the fan-in n while what tells the units apart grows with √n only: for U(0, 1) and 256 inputs of
    0.4 the shared part is 51 and the rest 3. All units of a layer then say nearly the same, in every deeper layer more
    so, and their gradients are nearly equal as well. It comes from `torch.rand`, or from `nn.init.uniform_(weight)`,
    whose limits are 0 and 1 unless they are given.

    Every published law is symmetric: U(-k/√n, k/√n) with k = √3 (LeCun) or √6 (He), U(±√(6/(n+m))) (Xavier), normals
    of mean zero.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.norm = nn.LayerNorm(64)
            self.out = nn.Linear(64, 10)
            nn.init.uniform_(self.hidden.weight)

        def forward(self, x):
            return self.out(self.norm(self.hidden(x)).relu())
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.norm = nn.LayerNorm(64)
            self.out = nn.Linear(64, 10)
            bound = self.hidden.in_features**-0.5
            nn.init.uniform_(self.hidden.weight, -bound, bound)

        def forward(self, x):
            return self.out(self.norm(self.hidden(x)).relu())
    ```

    Known limits: only weights that look like independent draws of a normal or uniform law, of at least 64 entries, in
    layers of torch. Trained weights, fixed filters, interpolation kernels, weights that a norm or another function
    makes positive, and embeddings are not judged.

    References: Glorot & Bengio 2010; He et al. 2015 (arXiv 1502.01852); LeCun et al. 1998, Efficient BackProp,
    section 4.6, on weights of mean zero.
    """

    code = "BN305"
    name = "shifted-weights"
    severity = Severity.WARNING
    phase = Phase.MODULES
    values = True

    max_shift: float = 0.5  # |mean| / std
    errors: float = 4.0  # standard errors of the mean beyond that limit

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at every trained weight of a layer that sums over its inputs."""
        from bnlint.signal.fans import fans_of

        for name, weight in model.module.named_parameters():
            path, _, key = name.rpartition(".")
            module = model.modules[path]
            of_torch = type(module).__module__.startswith("torch.nn.modules") and fans_of(module, key) is not None
            found = self._shifted(weight) if of_torch and weight.requires_grad else None
            if found is None:
                continue
            yield self.finding(
                model.place(path=path),
                f"the {found.law} weights in `{key}` have mean {found.mean:.3g} and std {found.std:.3g}: a shift of "
                f"{abs(found.mean) / found.std:.2g} std, limit {self.max_shift:g}",
                help="draw them around zero: `nn.init.uniform_(weight, -b, b)` with `b = fan_in**-0.5`, say",
                evidence={"mean": found.mean, "std": found.std, "law": found.law},
            )

    def _shifted(self, weight: torch.Tensor) -> Recognition | None:
        """The law of a weight that is a random draw around something else than zero."""
        from bnlint.graph.weights import has_numbers
        from bnlint.signal.laws import sample
        from bnlint.signal.schemes import recognise

        if not has_numbers(weight):
            return None
        entries = sample(weight).matrix.flatten()
        limit = self.max_shift + self.errors / math.sqrt(max(entries.numel(), 1))
        if entries.numel() < 2 or not bool(entries.mean().abs() > limit * entries.std()):
            return None
        found = recognise(weight)
        return found if found is not None and found.drawn else None
