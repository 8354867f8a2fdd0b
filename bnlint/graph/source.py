"""Which line constructs a module: logged while the user's code builds the model, else read from the source's syntax."""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import inspect
import linecache
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from bnlint.graph.frames import Call, Owner, owner, resolve, users_call
from bnlint.graph.names import ModuleNames
from bnlint.graph.syntax import ClassText, Span, call_on_line, class_text, element
from bnlint.rule import Location

_Container = nn.Sequential | nn.ModuleList | nn.ModuleDict


class ConstructionLog:
    """Notes the call that constructs each module while the `with` block runs.

    The call is the innermost line of the user's own code, else of an installed package, between the `with` block and
    the module's outermost `__init__`. Modules are held weakly. A deep copy is constructed by the line that copies it;
    the modules inside the copy keep the lines of their originals.
    """

    def __init__(self) -> None:
        self._calls: dict[int, tuple[weakref.ref[nn.Module], Call]] = {}
        self._outside: FrameType | None = None
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> ConstructionLog:
        init, setstate, log = nn.Module.__init__, nn.Module.__setstate__, self

        @functools.wraps(init)
        def logged_init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            if log.call(self) is None:  # the first `__init__` is the outermost
                log._note(self, log._construction(self, sys._getframe(1)))
            init(self, *args, **kwargs)

        @functools.wraps(setstate)
        def logged_setstate(self: nn.Module, state: Any) -> None:
            log._note(self, log._copy(self, sys._getframe(1)))
            setstate(self, state)  # type: ignore[no-untyped-call]

        def undo() -> None:
            if nn.Module.__init__ is logged_init:  # else a library has wrapped it meanwhile, and keeps its wrapper
                nn.Module.__init__ = init  # type: ignore[method-assign]
            if nn.Module.__setstate__ is logged_setstate:
                nn.Module.__setstate__ = setstate  # type: ignore[method-assign]

        nn.Module.__init__, nn.Module.__setstate__ = logged_init, logged_setstate  # type: ignore[method-assign]
        self._undo, self._outside = undo, sys._getframe(1)
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo()
        self._outside = None

    def call(self, module: nn.Module) -> Call | None:
        """The logged call that constructed this very module."""
        found = self._calls.get(id(module))
        return found[1] if found and found[0]() is module else None

    def _note(self, module: nn.Module, call: Call | None) -> None:
        if call is not None:
            self._calls[id(module)] = weakref.ref(module), call

    def _construction(self, module: nn.Module, frame: FrameType | None) -> Call | None:
        while frame is not None and _is_constructor(frame, module):
            frame = frame.f_back
        return users_call(frame, self._outside)

    def _copy(self, module: nn.Module, frame: FrameType | None) -> Call | None:
        while frame is not None and _first_argument(frame) is module:
            frame = frame.f_back
        if frame is None or not _is_reconstruct(frame):
            return None  # unpickled: the line that loads a file says nothing about the layer
        original, frame = _first_argument(frame), frame.f_back
        while frame is not None and frame.f_code.co_filename == copy.__file__:
            if _is_reconstruct(frame) and (call := self.call(original)):
                return call
            frame = frame.f_back
        return users_call(frame, self._outside)


class Source:
    """Where the modules of one model come from. A line is looked up when asked for, and only once."""

    def __init__(self, model: nn.Module, log: ConstructionLog | None) -> None:
        self._model, self._log = model, log
        self._modules: dict[str, nn.Module] = {**dict(model.named_modules()), **ModuleNames(model).unregistered}
        self._locations: dict[str, Location | None] = {}

    def location(self, module_path: str) -> Location | None:
        """The line that constructs the module, else its class; the user's own code before an installed package's."""
        if module_path not in self._locations:
            self._locations[module_path] = self._locate(module_path)
        return self._locations[module_path]

    def class_location(self, cls: type) -> Location | None:
        """The `class` line; None for PyTorch's own classes and where there is no source."""
        texts = _texts(cls)
        return texts[0].header() if texts else None

    def classes(self) -> dict[str, list[int]]:
        """The lines of the user's own classes that the model is built of, and of what builds the model, by file."""
        found = [self.class_location(cls) for cls in dict.fromkeys(map(type, self._modules.values()))]
        lines: dict[str, list[int]] = {}
        for at in (self.location(""), *found):
            if at is not None and owner(str(Path(at.file).resolve())) == Owner.USER:
                lines.setdefault(at.file, []).append(at.line)
        return {file: sorted(set(rows)) for file, rows in sorted(lines.items())}

    def _locate(self, path: str) -> Location | None:
        module = self._module(path)
        if module is None:
            return None
        call = self._log.call(module) if self._log else None
        if call is not None:
            return _resolve(call, module)
        library: Location | None = None
        for outer in _outwards(path):
            filename, location = self._read(outer) or ("<unknown>", None)
            if owner(filename) == Owner.USER:
                return location
            library = library or location
        return library

    def _module(self, path: str) -> nn.Module | None:
        if path not in self._modules:
            with contextlib.suppress(
                AttributeError, RuntimeError
            ):  # a shared one by its second name; TorchScript has none
                self._modules[path] = self._model.get_submodule(path)
        return self._modules.get(path)

    def _read(self, path: str) -> tuple[str, Location] | None:
        """File and place of the text that constructs the module at `path`, else of the class that does."""
        span = self._expression(path)
        if span is not None:
            return span.filename, span.location()
        texts = self._builder(path)
        wanted = type(self._module(path)).__name__
        for text in texts if path else []:
            span = text.only_call(wanted)
            if span is not None:
                return span.filename, span.location()
        return (texts[0].filename, texts[0].header()) if texts else None

    def _builder(self, path: str) -> list[ClassText]:
        """The class whose code builds the module at `path`: the next one outwards that is no mere container."""
        for outer in list(_outwards(path))[1 if path else 0 :]:
            module = self._module(outer)
            texts = _texts(type(module)) if module is not None else []
            if texts or not isinstance(module, _Container):
                return texts
        return []

    def _expression(self, path: str) -> Span | None:
        if not path:
            return None
        parent_path, key, in_list = _split(path)
        parent, module = self._module(parent_path), self._module(path)
        texts = _texts(type(parent)) if parent is not None and not in_list else []
        if in_list or isinstance(parent, _Container):
            containers = [self._expression(parent_path), *(text.super_call() for text in texts)]
            found = next((span for c in containers if c and (span := element(c, key))), None)
            if found:
                return found
        wanted = type(module).__name__ if module is not None else None
        return next((span for text in texts if (span := text.assignment(key, wanted))), None)


def locate(model: nn.Module, log: ConstructionLog | None = None) -> Source:
    """The source of a model: by the log of its construction, and by syntax for what the log does not know."""
    linecache.checkcache()
    return Source(model, log)


def _texts(cls: type) -> list[ClassText]:
    """The source of a class and its bases, PyTorch's own left out."""
    texts = (class_text(base) for base in cls.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins"))
    return [text for text in texts if text is not None]


def _outwards(path: str) -> Iterator[str]:
    """`a.b`, `a` and the root."""
    while path:
        yield path
        path = _split(path)[0]
    yield ""


def _split(path: str) -> tuple[str, str, bool]:
    """Parent, name and whether it is an item of a plain list or dict: `a.b` and `a.b[0]`."""
    if path.endswith("]"):
        parent, _, key = path.removesuffix("]").rpartition("[")
        return parent, str(ast.literal_eval(key)), True
    parent, _, key = path.rpartition(".")
    return parent, key, False


def _resolve(call: Call, module: nn.Module) -> Location:
    found = resolve(call)
    if found.column is None:  # Python 3.10 knows only the line
        span = call_on_line(call.code.co_filename, found.line, type(module).__name__)
        return span.location() if span else found
    return found


def _is_constructor(frame: FrameType, module: nn.Module) -> bool:
    """Whether the frame is part of constructing the module: a method on it, or its metaclass's `__call__`."""
    first = _first_argument(frame)
    return first is module or (first is type(module) and frame.f_code.co_name == "__call__")


def _is_reconstruct(frame: FrameType) -> bool:
    return frame.f_code.co_name == "_reconstruct" and frame.f_code.co_filename == copy.__file__


def _first_argument(frame: FrameType) -> Any:
    code = frame.f_code
    if code.co_argcount:
        return frame.f_locals.get(code.co_varnames[0])
    if code.co_flags & inspect.CO_VARARGS:
        positional = frame.f_locals.get(code.co_varnames[code.co_kwonlyargcount])
        return positional[0] if isinstance(positional, tuple) and positional else None
    return None
