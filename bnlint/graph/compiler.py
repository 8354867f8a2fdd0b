"""Keeps torch's compiler out of a check: parts that the user compiles run eagerly, and torch does not import it.

`FakeTensorMode` and the shape functions of many ops import `torch._dynamo`: for two settings, and to keep the compiler
out of themselves when somebody compiles. That import takes longer, and more memory, than `import torch`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

_F = TypeVar("_F", bound=Callable[..., Any])
_NAME = "torch._dynamo"


@contextmanager
def no_compiler() -> Iterator[None]:
    """Nothing is compiled for the duration; a stand-in for `torch._dynamo`, unless the real one is there already."""
    with ExitStack() as stack:
        if _NAME in sys.modules:
            stack.enter_context(_eagerly())
        else:
            stand_in = _StandIn(_NAME, loaded=lambda: stack.enter_context(_eagerly()))
            stack.callback(stand_in.remove)
            sys.modules[_NAME], torch._dynamo = stand_in, stand_in
            stand_in.config = _load(f"{_NAME}.config")
        yield


@contextmanager
def compiling() -> Iterator[None]:
    """Inside `no_compiler`, lets torch compile after all: in this process alone, with the eager run's random numbers.

    Raises RuntimeError where torch is too old for that.
    """
    if not hasattr(torch.compiler, "set_stance"):
        raise RuntimeError("torch 2.6 or later is needed")
    torch.compiler.reset()  # first, as it calls the stand-in, which then makes way for a compiler that runs eagerly
    inductor = importlib.import_module("torch._inductor.config")
    with torch.compiler.set_stance("default"), inductor.patch(fallback_random=True, compile_threads=1):
        try:
            yield
        finally:
            torch.compiler.reset()


def _eagerly() -> AbstractContextManager[object]:
    """What was compiled runs as if it had not been."""
    if hasattr(torch.compiler, "set_stance"):  # torch 2.6
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return eager
    from unittest import mock

    frames = importlib.import_module(f"{_NAME}.eval_frame")
    enter = frames.set_eval_frame
    return mock.patch.object(frames, "set_eval_frame", lambda callback: enter(None))


class _StandIn(ModuleType):
    """Has what a run on fake tensors needs; whoever asks for more gets the real module."""

    def __init__(self, name: str, loaded: Callable[[], object]) -> None:
        super().__init__(name)
        self._loaded = loaded  # called when the real module has taken its place
        self.config: ModuleType
        self._marked: list[Callable[..., Any]] = []

    def disable(self, function: _F, recursive: bool = True, *, wrapping: bool = True, **_: Any) -> _F:
        """What the decorator `torch._disable_dynamo` calls once a function: without a compiler, nothing to disable."""
        self._marked.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        if name == "__spec__" or name == "__file__":
            raise AttributeError(name)
        self.remove()
        real = importlib.import_module(_NAME)
        self._loaded()
        return getattr(real, name)

    def remove(self) -> None:
        """Leaves torch as it was, so that the next import is the real one."""
        for function in self._marked:
            function.__dict__.pop("__dynamo_disable", None)
        self._marked.clear()
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            sys.modules.pop(f"{_NAME}.config", None)
            torch.__dict__.pop("_dynamo", None)


def _load(name: str) -> ModuleType:
    """A module of the package without the package's own `__init__`."""
    path = Path(torch.__file__).parent / "_dynamo" / f"{name.rpartition('.')[2]}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
