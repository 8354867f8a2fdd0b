"""Running a model on fake tensors: shapes without data, and no way to reach the real parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorConverter,
    FakeTensorMode,
    UnsupportedOperatorException,
    in_kernel_invocation_manager,
)

from bnlint.graph.frames import Call
from bnlint.graph.nest import map_tensors, tensors
from bnlint.graph.shapes import result_of

_CPU = torch.device("cpu")
_CANNOT_FAKE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


class Unfollowable(Exception):
    """Fake tensors cannot follow the model here (data-dependent value, numpy, an op without a fake kernel)."""

    def __init__(self, reason: str, call: Call | None) -> None:
        super().__init__(reason)
        self.reason, self.call = reason, call


class _Converter(FakeTensorConverter):
    """Takes a tensor on the meta device, where a model of any size fits, for one of the CPU, where the inputs are."""

    def from_real_tensor(self, *args: Any, **kwargs: Any) -> Any:
        """The fake tensor for one that is not."""
        fake = super().from_real_tensor(*args, **kwargs)
        if isinstance(fake, FakeTensor) and fake.fake_device.type == "meta":
            fake.fake_device = _CPU
        return fake


class FakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """torch's, with a short way (`shapes.py`) for the commonest ops.

    torch's way loads the symbolic shapes first, half a second and 50 MB, which a batch of a given size never needs.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fake_tensor_converter = _Converter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one op on fake tensors."""
        given = [tensor for _, tensor in tensors((args, kwargs or {}))]
        if given and all(type(t) is FakeTensor and t.fake_device == _CPU and t.constant is None for t in given):
            with in_kernel_invocation_manager(self):
                result = result_of(func, args, kwargs or {})
            if result is not None:
                return map_tensors(result, self._wrapped)
        if func is torch.ops.aten.empty.memory_format and not given and _on_cpu(kwargs or {}):
            return FakeTensor(self, torch.empty(*args, **{**(kwargs or {}), "device": "meta"}), _CPU)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _wrapped(self, result: torch.Tensor) -> torch.Tensor:
        return result if isinstance(result, FakeTensor) else FakeTensor(self, result, _CPU)


def _on_cpu(options: dict[str, Any]) -> bool:
    plain = options.get("layout") in (None, torch.strided) and not options.get("pin_memory")
    return plain and options.get("device") in (None, _CPU)


@contextmanager
def fake_state(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Every parameter, buffer and plain tensor attribute replaced by a fake one, so that no op can reach real data."""
    saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
    made: dict[int, torch.Tensor] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or nn.parameter.is_lazy(value):
            return value
        if id(value) not in made:
            made[id(value)] = to_fake(mode, value)
        return made[id(value)]

    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for store in stores:
            held: dict[str, Any] = {k: v for k, v in store.items() if isinstance(v, torch.Tensor)}
            saved.append((store, held))
            store.update({k: fake(v) for k, v in held.items()})
    try:
        yield
    finally:
        for store, held in saved:
            store.update(held)


def recording_mode(made: list[torch.Tensor]) -> AbstractContextManager[object]:
    """The mode under which these tensors were made; outside of it torch loads its distributed package for each op."""
    return next((t.fake_mode for t in made if isinstance(t, FakeTensor)), nullcontext())


@contextmanager
def quiet_failures() -> Iterator[None]:
    """Keeps torch from logging every failed shape computation; bnlint reports them itself."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def to_fake(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """A fake tensor of the same shape, dtype, device and strides; a fake one is returned as it is."""
    if isinstance(tensor, FakeTensor):
        return tensor
    if not _is_plain(tensor):
        return mode.from_tensor(tensor, static_shapes=True)
    device = _CPU if tensor.is_meta else tensor.device
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    fake = FakeTensor(mode, empty, device)
    fake._is_param = isinstance(tensor, nn.Parameter)
    return fake.requires_grad_(tensor.requires_grad)


def _is_plain(tensor: torch.Tensor) -> bool:
    """True when shape, strides, dtype and device say it all."""
    dense = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    return type(tensor) in (torch.Tensor, nn.Parameter) and dense and tensor.is_leaf and not tensor._is_view()


_FAKES = str(Path(torch._subclasses.__file__).parent)
_OF_FAKES = ("tensor subclasses", "FakeTensor", "fake tensor")
_SAYINGS = (
    *(*_OF_FAKES, "data pointer", "'Meta' backend", "meta tensor"),
    *("DataDependentOutputException", "DynamicOutputShapeException", "TorchScript interpreter"),  # scripted modules
)


def cannot_follow(error: Exception) -> bool:
    """True for an exception that says more about fake tensors than about the model."""
    text = str(error)
    return isinstance(error, (*_CANNOT_FAKE, NotImplementedError)) or any(words in text for words in _SAYINGS)


def blames_fakes(error: Exception) -> bool:
    """True for an exception outside of any op that real tensors would hardly raise."""
    return not isinstance(error, AttributeError) and any(words in str(error) for words in _OF_FAKES)


def meets_a_fake(error: BaseException) -> bool:
    """True for an exception of a run on real tensors that comes from a fake one, left behind where nobody looked."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(_FAKES):
            return True
        trace = trace.tb_next
    return any(words in str(error) for words in _OF_FAKES)


def reason(error: Exception) -> str:
    """Why fake tensors cannot follow, for people."""
    if isinstance(error, DataDependentOutputException):
        return "the forward pass reads a tensor's value (an `if`, `.item()` or `int()` on data)"
    if isinstance(error, DynamicOutputShapeException):
        return "the size of an intermediate result depends on the data (`nonzero`, boolean indexing)"
    first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return f"an op has no shape-only implementation ({first})"
