"""What a rule is, what it finds and where it says so. Imports no torch."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class Severity(enum.Enum):
    """How sure and how bad: an error is broken, a warning very likely harms training, info never fails a run."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)


class Phase(enum.Enum):
    """The cheapest stage whose facts a rule needs."""

    SOURCE = "source"  # text only, nothing is imported
    MODULES = "modules"  # the model is built, not run
    GRAPH = "graph"  # one run on fake tensors, no data
    FORWARD = "forward"  # one real batch on the device
    BACKWARD = "backward"  # and its gradient

    @property
    def rank(self) -> int:
        """Position in the pipeline: source 0 … backward 4."""
        return list(Phase).index(self)


class State(enum.Enum):
    """Where a rule is in its life: a preview rule runs only with `--preview`, a deprecated one will go."""

    PREVIEW = "preview"
    STABLE = "stable"
    DEPRECATED = "deprecated"


class Variant(enum.Enum):
    """A second recording, on fake tensors, that a rule compares the first with."""

    EVAL = "eval"  # the other mode: `model.eval()`
    BATCH_OF_ONE = "batch of one"
    LARGER_BATCH = "larger batch"  # one sample more
    LARGER_MAP = "larger map"  # inputs of four axes and more, half as large again along every spatial axis


class Pass(enum.Enum):
    """A further run of the probe, on real data, that is made only when a selected rule asks for it."""

    EVAL_TWICE = "eval twice"  # the same batch two times in eval mode
    OTHER_SAMPLES = "other samples"  # a sample with other neighbours in the batch, in eval mode
    WARMED_EVAL = "eval mode"  # with the running statistics of this batch
    COMPILED = "compiled"  # under torch.compile, forward and backward, beside the same run eagerly
    REFERENCE = "reference"  # on the CPU in float32, and once more on the device, in eval mode


@dataclass(frozen=True)
class Location:
    """A span of source text; lines and columns count from 1, the end column is exclusive."""

    file: str
    line: int
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a finding belongs: a module of the model, the line that builds it and the line that calls it."""

    module_path: str
    location: Location | None = None
    call: Location | None = None
    node: str | None = None  # the fx node's name; explains that node's error to the audit


@dataclass(frozen=True)
class Finding:
    """One thing a rule has to say. `modules` lists equal siblings, the first of them being `module_path`."""

    code: str
    name: str
    severity: Severity
    message: str
    help: str = ""
    note: str = ""
    module_path: str = ""
    modules: tuple[str, ...] = ()
    location: Location | None = None
    call: Location | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    target: str = ""
    suppressed: str | None = None
    nodes: tuple[str, ...] = ()  # the fx nodes it is about, whose errors it explains; not reported

    @property
    def fingerprint(self) -> str:
        """Stable under edits that move lines: code, target and module path."""
        import hashlib  # loads OpenSSL, and `--help` does without

        key = "\0".join((self.code, self.target, self.module_path or (self.location.file if self.location else "")))
        return hashlib.sha256(key.encode()).hexdigest()[:16]


class Rule:
    """Base class of every rule. Its docstring is its page; its annotated class attributes beyond these are options."""

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    phase: ClassVar[Phase]
    passes: ClassVar[frozenset[Pass]] = frozenset()
    yields_to: ClassVar[tuple[str, ...]] = ()  # codes of rules that name the cause of what this one finds
    at_init: ClassVar[bool] = False  # only makes sense at the start of training: not for trained weights in eval mode
    explains_failure: ClassVar[bool] = False  # also runs where the probe met an op that the device or dtype lacks
    values: ClassVar[bool] = False  # reads values of parameters or buffers, which `--meta` does not make
    state: ClassVar[State] = State.STABLE
    since: ClassVar[str] = "0.1.0"  # the version that brought the rule, or put it into this state

    def __init__(self, **options: Any) -> None:
        """Sets options by name; raises TypeError for one the rule does not have."""
        known = self.options()
        for key, value in options.items():
            if key not in known:
                raise TypeError(f"{self.code} has no option `{key}`; it has: {', '.join(known) or 'none'}")
            setattr(self, key, value)

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Yields findings about the model; must not change or run it."""
        raise NotImplementedError

    def finding(
        self,
        place: Place,
        message: str,
        *,
        help: str = "",
        note: str = "",
        severity: Severity | None = None,
        evidence: Mapping[str, Any] | None = None,
        others: Sequence[Place] = (),
    ) -> Finding:
        """A finding of this rule at `place`; `others` are equal places reported with it."""
        places = (place, *others)
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity or self.severity,
            message=message,
            help=help,
            note=note,
            module_path=place.module_path,
            modules=tuple(dict.fromkeys(p.module_path for p in places)),
            location=place.location,
            call=place.call,
            evidence=dict(evidence or {}),
            nodes=tuple(p.node for p in places if p.node),
        )

    @classmethod
    def options(cls) -> dict[str, tuple[type, Any]]:
        """Option name to (type, default): the annotated public attributes that are not ClassVar."""
        found: dict[str, tuple[type, Any]] = {}
        for base in reversed(cls.__mro__):
            if base in (Rule, object):
                continue
            for key, kind in inspect.get_annotations(base, eval_str=True).items():
                if not key.startswith("_") and getattr(kind, "__origin__", None) is not ClassVar:
                    found[key] = (kind, getattr(cls, key))
        return found

    @classmethod
    def doc(cls) -> str:
        """The cleaned docstring: summary, why, examples, references."""
        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def summary(cls) -> str:
        """The docstring's first sentence."""
        return cls.doc().split("\n\n")[0].replace("\n", " ")


@dataclass(frozen=True)
class EngineCode:
    """A BN9xx code: bnlint's own words about a check that did not happen or is partial."""

    code: str
    name: str
    severity: Severity
    summary: str
    since: str = "0.1.0"


ENGINE_CODES: dict[str, EngineCode] = {
    row.code: row
    for row in (
        EngineCode("BN901", "import-failed", Severity.ERROR, "The target's file or module cannot be imported."),
        EngineCode("BN902", "construction-failed", Severity.ERROR, "The model cannot be built from the target."),
        EngineCode("BN903", "forward-failed", Severity.ERROR, "The forward pass fails for a reason no rule explains."),
        EngineCode(
            "BN904", "untraced-part", Severity.INFO, "A part of the model could not be followed; rules were skipped."
        ),
        EngineCode("BN905", "timed-out", Severity.ERROR, "The check ran past its time limit and was stopped."),
        EngineCode(
            "BN906", "crashed", Severity.ERROR, "The model's process died: a signal, an exit or no memory left."
        ),
        EngineCode("BN907", "unused-suppression", Severity.WARNING, "A suppression comment suppresses nothing."),
        EngineCode(
            "BN908", "unknown-rule", Severity.WARNING, "A suppression comment names a rule that does not exist."
        ),
        EngineCode("BN909", "rule-crashed", Severity.ERROR, "A rule raised an exception; the others' findings stand."),
        EngineCode("BN910", "stale-baseline", Severity.WARNING, "A baseline entry matches no finding any more."),
    )
}


def engine_finding(
    code: str,
    message: str,
    *,
    help: str = "",
    note: str = "",
    place: Place | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Finding:
    """A BN9xx finding."""
    row, place = ENGINE_CODES[code], place or Place("")
    return Finding(
        code=code,
        name=row.name,
        severity=row.severity,
        message=message,
        help=help,
        note=note,
        module_path=place.module_path,
        modules=(place.module_path,) if place.module_path else (),
        location=place.location,
        call=place.call,
        evidence=dict(evidence or {}),
    )
