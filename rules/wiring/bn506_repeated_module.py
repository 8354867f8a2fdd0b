"""BN506 repeated-module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.model import AuditedModel


class RepeatedModule(Rule):
    """One layer stands at several places of a container, so that all of them share one set of weights.

    Why it matters: `[block] * 6` repeats the reference, not the block. The model prints as six layers and has the
    weights of one (3.2 instead of 18.9 million for `nn.TransformerEncoderLayer(512, 8)`); each of them gets the sum of
    six gradients. Sharing weights over depth is a method (ALBERT,
    universal transformers), so this is a remark.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.ReLU())] * 3)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.blocks(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)])
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.blocks(x))
    ```

    Known limits: a layer that forward calls several times by one name is not reported, nor are repeated layers without
    weights.

    References: Lan et al. 2019, ALBERT (arXiv 1909.11942), for sharing on purpose; Python FAQ, "How do I create a
    multidimensional list?", for what `*` does.
    """

    code = "BN506"
    name = "repeated-module"
    severity = Severity.INFO
    phase = Phase.MODULES

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for one object under several keys of a container."""
        from torch import nn

        from bnlint.graph.names import parameters_of

        for path, container in model.module.named_modules():
            if not isinstance(container, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
                continue
            for keys, module in _repeated(container):
                names = [f"{path}.{key}" if path else key for key in keys]
                count = sum(p.numel() for p in parameters_of(module))
                yield self.finding(
                    model.place(path=names[0]),
                    f"`{path or model.name}` holds one {type(module).__name__} at {len(keys)} places: "
                    f"they share {count} parameters",
                    help="construct one for each place, as in `[make() for _ in range(n)]`, if they are to differ",
                    evidence={"places": names, "parameters": count},
                    others=[model.place(path=name) for name in names[1:]],
                )


def _repeated(container: nn.Module) -> Iterator[tuple[list[str], nn.Module]]:
    from bnlint.graph.names import parameters_of

    keys: dict[int, list[str]] = {}
    for key, module in container._modules.items():
        if module is not None and parameters_of(module):
            keys.setdefault(id(module), []).append(key)
    for row in keys.values():
        first = container._modules[row[0]]
        if len(row) > 1 and first is not None:
            yield row, first
