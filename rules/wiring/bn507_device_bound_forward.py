"""BN507 device-bound-forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Place, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel

_NO_CUDA = ("not compiled with CUDA", "No CUDA GPUs", "no NVIDIA driver", "not linked with support for cuda")


class DeviceBoundForward(Rule):
    """Forward creates a tensor on a fixed device, or moves one there, instead of following the model.

    Why it matters: `torch.zeros(n)` makes a tensor on the CPU. As long as the model is there too nothing shows; on a
    GPU the first op that combines it with an activation raises "Expected all tensors to be on the same device". A
    `.cuda()` in forward fails on a machine without one and puts everything on the first of several GPUs, so that under
    `DataParallel` on eight cards seven replicas get tensors of the wrong card. Where the forward pass fails for it on
    the device that the model is checked on, it is an error.

    Example (bad):

    ```python
    # bnlint check --input 4x7x16
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(16, 32, batch_first=True)
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            hidden = torch.zeros(1, x.shape[0], 32)
            out, _ = self.rnn(x, hidden)
            return self.head(out[:, -1])
    ```

    Use instead (good):

    ```python
    # bnlint check --input 4x7x16
    import torch
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(16, 32, batch_first=True)
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            hidden = torch.zeros(1, x.shape[0], 32, device=x.device)
            out, _ = self.rnn(x, hidden)
            return self.head(out[:, -1])
    ```

    Known limits: dtypes are not judged, as a `.float()` in the middle of a half-precision model is often meant. A
    device that is kept in a variable cannot be told from the input's and is not reported. Tensors used only as an
    index, without axes, or returned as they are work on any device.

    References: PyTorch documentation, CUDA semantics, "Device-agnostic code".
    """

    code = "BN507"
    name = "device-bound-forward"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Follows tensors that stay where they are, and reads the devices that calls name."""
        from bnlint.graph.devices import fixed_device, is_made_without_device, left_behind
        from bnlint.graph.ops import op_name

        graph = model.graph
        assert graph is not None

        def starts(node: fx.Node) -> bool:
            # integers moved to the CPU are lengths, which packing a sequence needs there
            return is_made_without_device(node) or (fixed_device(node) == "cpu" and _is_floating(node))

        for node in graph.nodes:
            device = fixed_device(node)
            if device is not None and not device.startswith("cpu"):
                stops = _where_it_stops(model, node)
                fails = f", and fails on `{model.probe.device}`" if stops and model.probe is not None else ""
                found = self.finding(
                    model.place(node),
                    f"`{op_name(node)}` in forward names the device `{device}`{fails}",
                    help="use the device of an input or a parameter, `x.device`",
                    severity=Severity.ERROR if stops else None,
                    evidence={"op": op_name(node), "device": device},
                )
                yield replace(found, nodes=(*found.nodes, *stops))
        for node, user in left_behind(graph, starts).items():
            line = model.call_line(user)
            what = "names the CPU" if fixed_device(node) else "names no device"
            where = f" at line {line.line}" if line is not None else ""
            yield self.finding(
                model.place(node),
                f"`{op_name(node)}` {what}: on a GPU `{op_name(user)}`{where} gets tensors of two devices",
                help=_cure(node),
                evidence={"op": op_name(node), "meets": op_name(user)},
            )
        yield from self._failed(model)

    def _failed(self, model: AuditedModel) -> Iterator[Finding]:
        assert model.graph is not None
        recording = model.graph.recording
        text = str(recording.error or "")
        if any(words in text for words in _NO_CUDA):
            yield self.finding(
                Place("", model.resolve_call(recording.error_call)),
                "forward needs a CUDA device whatever device the model is on",
                help="use the device of an input or a parameter, `x.device`",
                severity=Severity.ERROR,
                evidence={"error": text.splitlines()[0]},
            )


def _where_it_stops(model: AuditedModel, node: fx.Node) -> tuple[str, ...]:
    """The op at which the probe's forward ends because of the device that `node` names: itself, or one that meets it.

    The model's device is another one then; on the device that is named the same forward runs.
    """
    raised = model.probe.raised if model.probe is not None else None
    line = model.resolve_call(raised.call) if raised is not None else None
    if raised is None or line is None:
        return ()
    if model.call_line(node) == line and any(words in raised.message for words in _NO_CUDA):
        return (node.name,)
    if "on the same device" not in raised.message:
        return ()
    assert model.graph is not None
    return tuple(op.name for op in model.graph.nodes if model.call_line(op) == line)


def _cure(node: fx.Node) -> str:
    """The edit; the device is that of the first argument of the forward the call stands in."""
    from bnlint.graph.devices import fixed_device, is_made_without_device

    code = getattr(node.meta.get("call"), "code", None)
    name = code.co_varnames[1] if code is not None and code.co_name == "forward" and code.co_argcount > 1 else "x"
    if not fixed_device(node):
        return f"pass `device={name}.device`"
    if any(is_made_without_device(source) for source in node.all_input_nodes):
        return f"make it with `device={name}.device` and leave it there"
    return "leave the tensor where it is"


def _is_floating(node: fx.Node) -> bool:
    dtype = getattr(node.meta.get("val"), "dtype", None)
    return dtype is None or bool(dtype.is_floating_point)
