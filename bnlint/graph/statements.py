"""What the text of the model's own classes says, method by method; nothing of it is run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from bnlint.graph.frames import Owner, owner
from bnlint.graph.syntax import ClassText, class_text


@dataclass(frozen=True)
class UserClass:
    """A class of the model with source, the paths of its instances, and its text."""

    cls: type[nn.Module]
    paths: tuple[str, ...]
    text: ClassText

    def methods(self) -> Iterator[ast.FunctionDef]:
        """The functions in the class body."""
        return (node for node in self.text.node.body if isinstance(node, ast.FunctionDef))

    def named(self, expression: ast.expr) -> object:
        """What a dotted name stands for in the module that defines the class; None when it is no such thing."""
        if isinstance(expression, ast.Name):
            return getattr(sys.modules.get(self.cls.__module__), expression.id, None)
        if isinstance(expression, ast.Attribute):
            return getattr(self.named(expression.value), expression.attr, None)
        return None


def user_classes(model: nn.Module) -> Iterator[UserClass]:
    """The classes of the model's modules, bases included, that the user and not a package wrote."""
    paths: dict[type[nn.Module], list[str]] = {}
    for path, module in model.named_modules():
        for base in type(module).__mro__:
            if issubclass(base, nn.Module) and not base.__module__.startswith("torch."):
                paths.setdefault(base, []).append(path)
    for cls, found in paths.items():
        text = class_text(cls)
        if text is not None and owner(text.filename) == Owner.USER:
            yield UserClass(cls, tuple(found), text)


def self_attribute(node: ast.AST) -> str | None:
    """`x` for `self.x`."""
    is_self = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if is_self and isinstance(node, ast.Attribute) else None


def calls_after_construction(model: nn.Module, name: str) -> bool:
    """True when a method that `__init__` does not call calls `<something>.<name>()`, in `forward` or a hook, say."""
    for found in user_classes(model):
        methods = {method.name: method for method in found.methods()}
        builders = {"__init__", *(_called(methods["__init__"]) if "__init__" in methods else ())}
        if any(name in _called(method) for key, method in methods.items() if key not in builders):
            return True
    return False


def set_once(module: nn.Module, name: str) -> float | None:
    """The number that the text assigns to `self.<name>` outside `__init__`; None unless that is the only assignment."""
    found: list[ast.expr | None] = []
    for cls in type(module).__mro__:
        text = class_text(cls) if not cls.__module__.startswith(("torch.", "builtins")) else None
        for method in (n for n in text.node.body if isinstance(n, ast.FunctionDef)) if text is not None else ():
            if method.name != "__init__":
                found += _assigned_to(method, name)
    only = found[0] if len(found) == 1 else None
    value = only.value if isinstance(only, ast.Constant) else None
    return float(value) if isinstance(value, (int, float)) else None


def _assigned_to(method: ast.FunctionDef, name: str) -> Iterator[ast.expr | None]:
    """What is assigned; None for `+=`, as in a counter."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and any(self_attribute(target) == name for target in node.targets):
            yield node.value
        elif isinstance(node, ast.AugAssign) and self_attribute(node.target) == name:
            yield None


def _called(method: ast.FunctionDef) -> set[str]:
    """The names of the methods that a method calls, on whatever."""
    calls = (node.func for node in ast.walk(method) if isinstance(node, ast.Call))
    return {func.attr for func in calls if isinstance(func, ast.Attribute)}
