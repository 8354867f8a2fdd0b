"""The mode that writes a forward pass into a `torch.fx.Graph`, op by op and module by module.

A `torch.nn` layer is one `call_module` node; everything else is `call_function` or `call_method`; parameters and
buffers used directly are `get_attr`. An op that raises becomes a node with `meta["error"]`, a plausible output takes
its place (`repair.py`) and the run goes on, as a compiler would.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import Function
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.weak import TensorWeakRef

from bnlint.graph.fake import Unfollowable, cannot_follow, reason
from bnlint.graph.frames import calling_line
from bnlint.graph.home import call_at, home_of
from bnlint.graph.memory import out_of_memory
from bnlint.graph.names import ModuleNames, tensor_names
from bnlint.graph.nest import map_tensors, plain, select, tensors
from bnlint.graph.recording import ModuleCall, OpError, Recording
from bnlint.graph.repair import Repair, repair_function, repair_module

Observer = Callable[[fx.Node, Any], None]

_UNRECORDED = {"requires_grad_", "retain_grad", "register_hook", "share_memory_", "__repr__", "__format__", "__hash__"}
_RESHAPES_IN_PLACE = {"squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_", "resize_", "resize_as_"}
_call_module = nn.Module.__call__
_apply = Function.__dict__["apply"]


def is_leaf(module: nn.Module) -> bool:
    """True for layers that `torch.nn` itself defines the forward of, containers excepted."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return True
    if "forward" in module.__dict__:
        return False
    return (type(module).forward.__module__ or "").startswith(("torch.nn.modules", "torch.ao.nn", "torch.nn.utils"))


class Recorder(TorchFunctionMode):
    """The mode that writes the graph; one instance records one forward pass."""

    def __init__(self, model: nn.Module, *, fake: bool, repair: bool, observer: Observer | None = None) -> None:
        super().__init__()
        self.recording = Recording(fx.Graph(), fake)
        self.graph = self.recording.graph
        self.names = ModuleNames(model)
        self.tensor_names = tensor_names(model)
        self.repair, self.observer, self.home = repair, observer, home_of(model)
        self.known: dict[int, tuple[TensorWeakRef, fx.Node, tuple[Any, ...]]] = {}
        self.attributes: dict[str, fx.Node] = {}
        self.path = ""
        self.in_leaf = False  # also while the recorder itself calls torch
        self.count = 0

    # -- values and nodes ------------------------------------------------------------------------------------------

    def placeholder(self, name: str, value: Any, batch: Mapping[int, int | None]) -> None:
        """An input of the model, a tensor or any container of tensors; `batch` is the batch axis by tensor id."""
        node = self.graph.placeholder(name)
        node.meta["batch"] = {index: batch.get(id(tensor), 0) for index, tensor in tensors(value)}
        self._finish(node, value)

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that made this tensor; parameters, buffers and constants get a `get_attr` node on first use."""
        entry = self.known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            _, node, index = entry
            return self._item(tensor, node, index) if index else node
        name, registered = self.tensor_names.get(id(tensor), (f"_tensor_constant{len(self.attributes)}", False))
        if name in self.attributes:
            node = self.attributes[name]
        else:
            node = self.graph.create_node("get_attr", name)
            node.meta["registered"] = registered
            node.meta["val"] = _fact(tensor)
            self._place(node)
            self.attributes[name] = node
        self.known[id(tensor)] = (TensorWeakRef(tensor), node, ())
        return node

    def _item(self, tensor: torch.Tensor, node: fx.Node, index: tuple[Any, ...]) -> fx.Node:
        for key in index:
            item = self.graph.create_node("call_function", operator.getitem, (node, key))
            item.meta.update({k: node.meta[k] for k in ("path", "call", "index", "grad") if k in node.meta})
            item.meta["val"] = select(node.meta["val"], key)
            node = item
        self.known[id(tensor)] = (TensorWeakRef(tensor), node, ())
        return node

    def _argument(self, value: Any) -> Any:
        return self.node_of(value) if isinstance(value, torch.Tensor) else value

    def write(self, op: str, target: Any, args: Any, kwargs: Any, output: Any, failed: Repair | None = None) -> fx.Node:
        """Writes one op and binds its output tensors to it."""
        node = self.graph.create_node(
            op, target, map_aggregate(plain(args), self._argument), map_aggregate(plain(kwargs), self._argument)
        )
        if failed is not None:
            node.meta["error"] = OpError(type(failed.error).__name__, str(failed.error), failed.how)
        self._finish(node, output)
        return node

    def _finish(self, node: fx.Node, output: Any) -> None:
        node.meta["val"] = map_tensors(output, _fact)
        self._place(node)
        for index, tensor in tensors(output):
            self.known[id(tensor)] = (TensorWeakRef(tensor), node, index)
        if self.observer is not None:
            self.observer(node, output)

    def _place(self, node: fx.Node) -> None:
        node.meta["path"] = self.path
        node.meta["call"] = calling_line(3)
        node.meta["index"] = self.count
        node.meta["grad"] = torch.is_grad_enabled()
        self.count += 1

    def finish(self, output: Any) -> None:
        """Writes the output node."""
        self.in_leaf = True
        node = self.graph.output(map_aggregate(plain(output), self._argument))
        node.meta.update(path="", call=None, index=self.count, val=plain(map_tensors(output, _fact)))
        self.in_leaf = False

    # -- torch functions -------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one torch function and writes it down when it makes or changes a tensor."""
        kwargs = kwargs or {}
        if self.in_leaf:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _RESHAPES_IN_PLACE:
            self._freeze(args[0])
        failed = None
        try:
            with self._opaque():
                output = call_at(self.home, func, args, kwargs) if self.recording.fake else func(*args, **kwargs)
        except Exception as error:
            if out_of_memory(error):
                raise
            failed = self._recover(error, lambda fault: repair_function(func, args, kwargs, fault))
            output = failed.output
        if name in _UNRECORDED:
            return output
        changed = args[0] if name == "__setitem__" else output
        if not any(True for _ in tensors(changed)):
            return output
        op, target, args = _fx_target(func, name, args)
        node = self.write(op, target, args, kwargs, changed, failed)
        if name.endswith("_") and isinstance(changed, torch.Tensor) and args and changed is args[0]:
            self._write_through_view(changed, node)
        return output

    @contextmanager
    def _opaque(self) -> Iterator[None]:
        """What an op runs inside, such as the autograd function of a custom op, is not recorded."""
        self.in_leaf = True
        try:
            yield
        finally:
            self.in_leaf = False

    def _freeze(self, tensor: Any) -> None:
        entry = self.known.get(id(tensor))
        if entry is not None:
            entry[1].meta["val"] = map_tensors(entry[1].meta["val"], lambda t: t.detach() if t is tensor else t)

    def _write_through_view(self, view: torch.Tensor, node: fx.Node) -> None:
        """An in-place op on a view also changes the tensor it is a view of."""
        base = view._base
        if base is not None and id(base) in self.known:
            self.write("call_function", view_write, (base, view), {}, base)

    # -- modules ---------------------------------------------------------------------------------------------------

    def call_module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Runs one module: a leaf becomes a node, anything else a level of the module path."""
        if self.in_leaf:
            return _call_module(module, *args, **kwargs)
        path = self.names.path_of(module, self.path)
        if path in self.names.unregistered:
            self.recording.unregistered[path] = module
        if is_leaf(module):
            return self._call_leaf(module, path, args, kwargs)
        call = ModuleCall(path, self.count, inputs=self._nodes((args, kwargs)))
        self.recording.calls.append(call)
        outer, self.path = self.path, path
        try:
            output = _call_module(module, *args, **kwargs)
        finally:
            self.path = outer
        call.last, call.outputs = self.count, self._nodes(output)
        return output

    def _call_leaf(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        if self.recording.fake and isinstance(module, torch.jit.ScriptModule):
            # the interpreter would remember the fake tensors and fail on real ones afterwards
            raise Unfollowable(f"`{path or type(module).__name__}` is compiled by TorchScript", calling_line(2))
        failed = None
        outer, self.path, self.in_leaf = self.path, path, True
        try:
            try:
                output = _call_module(module, *args, **kwargs)
            except Exception as error:
                if out_of_memory(error):
                    raise
                failed = self._recover(error, lambda fault: repair_module(module, args, kwargs, fault))
                output = failed.output
            self.write("call_module", path, args, kwargs, output, failed)
        finally:
            self.path, self.in_leaf = outer, False
        return output

    def apply_function(self, cls: type[Function], args: Any, kwargs: Any) -> Any:
        """Runs a custom autograd function as one opaque node; a checkpointed function is followed instead."""
        if cls is CheckpointFunction and not self.in_leaf:
            run, _, *inputs = args
            return run(*inputs)
        run = _apply.__get__(None, cls)
        if self.in_leaf:
            return run(*args, **kwargs)
        self.in_leaf = True
        try:
            output = run(*args, **kwargs)
            self.write("call_function", cls, args, kwargs, output)
        finally:
            self.in_leaf = False
        return output

    def _nodes(self, values: Any) -> tuple[fx.Node, ...]:
        self.in_leaf = True
        try:
            return tuple(self.node_of(tensor) for _, tensor in tensors(values))
        finally:
            self.in_leaf = False

    def _recover(self, error: Exception, attempt: Callable[[Exception], Repair | None]) -> Repair:
        if self.recording.fake and cannot_follow(error):
            raise Unfollowable(reason(error), calling_line(3)) from error
        repaired = attempt(error) if self.repair and not isinstance(error, (MemoryError, RecursionError)) else None
        if repaired is None:
            raise error
        return repaired


@contextmanager
def followed_calls(recorder: Recorder) -> Iterator[None]:
    """Module calls and custom autograd functions go through the recorder."""

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.call_module(module, args, kwargs)

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        return recorder.apply_function(cls, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = _call_module  # type: ignore[method-assign]
        Function.apply = _apply  # type: ignore[method-assign]


def view_write(base: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """Stands in the graph for: `base` after an in-place op on its view `view`."""
    return base


def _fact(tensor: torch.Tensor) -> torch.Tensor:
    """What the graph keeps of a tensor: itself when it holds no data, else its shape on the meta device."""
    if isinstance(tensor, FakeTensor) or tensor.device.type == "meta":
        return tensor
    with torch._C.DisableTorchFunction():
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad)


def _fx_target(func: Any, name: str, args: Any) -> tuple[str, Any, Any]:
    """The fx opcode, target and arguments of a torch function call."""
    if name == "__get__":
        return "call_function", getattr, (args[0], func.__self__.__name__)
    if name == "__setitem__":
        return "call_function", operator.setitem, args
    if getattr(torch.Tensor, name, None) is func:
        return "call_method", name, args
    return "call_function", func, args
