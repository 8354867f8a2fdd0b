"""What the probe found out, and where it ran."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnlint.graph.frames import Call as CallSite
from bnlint.rule import Pass
from bnlint.signal.agreement import Agreement
from bnlint.signal.compiled import Compiled
from bnlint.signal.evaluation import Gap
from bnlint.signal.loss import InitialLoss
from bnlint.signal.mixing import Mixing
from bnlint.signal.parameters import ParameterStats
from bnlint.signal.repeat import Repeat
from bnlint.signal.statistics import NodeStats


@dataclass(frozen=True)
class Where:
    """Where the model runs, and in what precision: `dtype` converts it, `autocast` only its ops."""

    device: str = "cpu"
    dtype: str | None = None
    autocast: str | None = None

    @property
    def is_reference(self) -> bool:
        """True on the CPU in the model's own dtype: there is nothing to compare it with."""
        return self.device == "cpu" and self.dtype in (None, "float32", "float64") and self.autocast is None

    def __str__(self) -> str:
        dtype = f"{self.autocast} autocast" if self.autocast else self.dtype
        return f"`{self.device}`" + (f" in {dtype}" if dtype else "")


@dataclass(frozen=True)
class FailedOp:
    """What the model's own forward raised, and the user's line that called it."""

    kind: str
    message: str
    call: CallSite | None


@dataclass
class ProbeFacts:
    """What the probe measured. `stats` is by node name of the static graph, `parameters` by every name they have."""

    device: str
    where: str = ""  # the device and the precision, in words
    loss: str = ""  # what the backward pass started from
    initial_loss: InitialLoss | None = None  # the value of a declared loss
    backward: bool = False  # the backward pass ran to its end
    stats: dict[str, NodeStats] = field(default_factory=dict)
    parameters: dict[str, ParameterStats] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: str | None = None  # why the forward pass did not run or stopped
    failed_call: CallSite | None = None  # the user's line where it stopped
    out_of_memory: bool = False
    raised: FailedOp | None = None  # what stopped it, where the model fails without the probe too
    unsupported: FailedOp | None = None  # the op that stopped it, where the device or dtype has none
    passes: set[Pass] = field(default_factory=set)  # the further ones that ran
    repeat: Repeat | None = None  # what two passes in eval mode gave
    mixing: Mixing | None = None  # what the samples of a batch do to each other in eval mode
    gap: Gap | None = None  # between the outputs of train and eval mode
    agreement: Agreement | None = None  # with the same model on the CPU in float32
    compiled: Compiled | None = None  # the same run under `torch.compile`
