"""BN511 missing-return."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class MissingReturn(Rule):
    """Forward ends by assigning its result to a local variable and returns nothing.

    Why it matters: Python returns None from a function without `return`. The result is lost with the variable, and the
    training loop stops with an error about None, far from the missing word.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            x = self.fc(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            x = self.fc(x)
            return x
    ```

    Known limits: only a forward that returns a value nowhere and whose last statement assigns to names that do not
    start with an underscore; one that keeps its result in an attribute or a list is not reported.

    References: The Python Language Reference, "The return statement".
    """

    code = "BN511"
    name = "missing-return"
    severity = Severity.WARNING
    phase = Phase.SOURCE

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reads the forward of every class of the model."""
        from bnlint.graph.statements import user_classes
        from bnlint.graph.syntax import Span

        for found in user_classes(model.module):
            for method in found.methods():
                lost = _lost_result(method) if method.name == "forward" else ()
                if not lost:
                    continue
                where = Span(found.text.filename, lost[0]).location()
                places = [Place(path, where) for path in found.paths]
                names = ", ".join(name.id for name in lost)
                yield self.finding(
                    places[0],
                    f"forward of `{found.cls.__name__}` returns nothing: `{names}` is lost when it ends",
                    help=f"end it with `return {names}`",
                    evidence={"names": [name.id for name in lost]},
                    others=places[1:],
                )


def _lost_result(method: ast.FunctionDef) -> tuple[ast.Name, ...]:
    """The local names that a function without a result assigns last."""
    last = method.body[-1]
    targets = last.targets if isinstance(last, ast.Assign) else [getattr(last, "target", None)]
    if not isinstance(last, (ast.Assign, ast.AnnAssign, ast.AugAssign)) or _gives_something(method):
        return ()
    parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
    names = tuple(part for part in parts if isinstance(part, ast.Name) and not part.id.startswith("_"))
    return names if len(names) == len(parts) else ()


def _gives_something(method: ast.FunctionDef) -> bool:
    """True for a generator, and where a value is returned or a name belongs to an outer scope."""
    kinds = (ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)
    return any(
        isinstance(node, kinds) or (isinstance(node, ast.Return) and node.value is not None)
        for node in ast.walk(method)
    )
