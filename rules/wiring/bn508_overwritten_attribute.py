"""BN508 overwritten-attribute."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.graph.statements import UserClass


class OverwrittenAttribute(Rule):
    """`__init__` assigns two different layers to one attribute, and the first is never used.

    Why it matters: the second assignment throws the first layer away without a word. Mostly it is a slip of the name:
    `self.conv2` written twice where the second was to be `self.conv3`, so that the model has one layer less than its
    text, or the wrong one of the two.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.fc1 = nn.Linear(16, 32)
            self.fc2 = nn.Linear(32, 32)
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            return self.fc2(self.relu(self.fc1(x)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.fc1 = nn.Linear(16, 32)
            self.fc2 = nn.Linear(32, 32)
            self.fc3 = nn.Linear(32, 4)

        def forward(self, x):
            return self.fc3(self.relu(self.fc2(self.relu(self.fc1(x)))))
    ```

    Known limits: only two plain assignments in the same block, with no use of the attribute between them; branches of
    an `if`, a subclass that replaces a layer of its base, and wrapping (`self.fc = wrap(self.fc)`) are not reported.
    Only calls of classes that the class's module can name are known to be layers.

    References: github.com/pytorch/pytorch issue 6316, a real case: the norm of the fourth conv got the name of the
    hidden layer's, and its author wondered why a BatchNorm2d asks for 2-D input; Pylint message W0128
    (redeclared-assigned-name), the same slip with a variable."""

    code = "BN508"
    name = "overwritten-attribute"
    severity = Severity.WARNING
    phase = Phase.SOURCE

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Reads the `__init__` of every class of the model."""
        from bnlint.graph.statements import user_classes
        from bnlint.graph.syntax import Span

        for found in user_classes(model.module):
            for method in found.methods():
                if method.name != "__init__":
                    continue
                for first, second, name in _overwritten(found, method.body):
                    line = Span(found.text.filename, second).location()
                    paths = [f"{path}.{name}" if path else name for path in found.paths]
                    yield self.finding(
                        Place(paths[0], line),
                        f"`self.{name}` was assigned another layer at line {first.lineno}, which is lost",
                        help="give one of the two its own name, or delete the first",
                        evidence={"attribute": name, "first_line": first.lineno},
                        others=[Place(path, line) for path in paths[1:]],
                    )


def _overwritten(found: UserClass, body: Sequence[ast.stmt]) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """Pairs of layers that one block of statements assigns to one attribute with nothing reading it between."""
    from bnlint.graph.statements import self_attribute

    held: dict[str, ast.expr] = {}
    for row in body:
        read = {
            self_attribute(n) for n in ast.walk(row) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)
        }
        calls_self = any(
            isinstance(n, ast.Name) and n.id == "self" and not _is_attribute_base(n, row) for n in ast.walk(row)
        )
        methods = any(isinstance(n, ast.Call) and self_attribute(n.func) for n in ast.walk(row))
        if calls_self or methods:
            held.clear()  # a method of the model may read anything
        for name in read & held.keys():
            del held[name]  # type: ignore[arg-type]
        if isinstance(row, ast.Assign) and len(row.targets) == 1:
            name = self_attribute(row.targets[0])
            if name is not None:
                layer = _is_layer(found, row.value)
                before = held.pop(name, None)
                if layer and before is not None and ast.dump(before) != ast.dump(row.value):
                    yield before, row.value, name
                if layer:
                    held[name] = row.value
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(row, (ast.If, ast.For, ast.While, ast.With, ast.Try)):
                yield from _overwritten(found, getattr(row, inner, []))


def _is_attribute_base(name: ast.Name, row: ast.stmt) -> bool:
    return any(isinstance(n, ast.Attribute) and n.value is name for n in ast.walk(row))


def _is_layer(found: UserClass, value: ast.expr) -> bool:
    from torch import nn

    cls = found.named(value.func) if isinstance(value, ast.Call) else None
    return isinstance(cls, type) and issubclass(cls, nn.Module)
