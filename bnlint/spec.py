"""How an input is written: `8x3x32x32`, `float32[8,3,32,32]`, `int64[8,128]<1000`, `mask=bool[4,7]`, `flag=True`."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool", "complex64", "complex128")
_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}
_FORMS = "write 8x3x32x32, float32[8,3,32,32] or int64[8,128]<1000, with name= in front for a keyword argument"
_DIGITS = 18  # of a number that a tensor can be asked for
_NAME = re.compile(r"\s*([^\W\d]\w*)\s*=(?!=)(.*)", re.DOTALL)
_TENSOR = re.compile(r"([A-Za-z]\w*)\s*\[([^\]]*)\]\s*(?:<\s*(\S+))?")
_SHORT = re.compile(r"(\d+(?:x\d+)*)(?:\s*<\s*(\S+))?")
_NEAR = re.compile(  # `8X4`, `(8, 4)`, `int64[8x4]`, `8x4:int64`
    r"(?:(?:torch\.)?(?P<dtype>[a-z]+\d*)[\s:]*)?[(\[]*(?P<sizes>[1-9]\d{0,8}(?:[\sx*×,]+[1-9]\d{0,8})*)[\s,)\]]*"
    r"(?:[\s:](?:torch\.)?(?P<after>[a-z]+\d*))?(?:\s*<\s*(?P<high>[1-9]\d{0,8}))?",
    re.IGNORECASE,
)


class SpecError(ValueError):
    """The text describes no input; the message is one sentence for people, `help` says what to write."""

    def __init__(self, message: str, help: str = _FORMS) -> None:
        super().__init__(message)
        self.help = help


@dataclass(frozen=True)
class TensorSpec:
    """The shape and values of a tensor; without a dtype it has the model's. `fill` is the value of all, or each row."""

    shape: tuple[int, ...]
    dtype: str | None = None
    high: int | None = None  # values lie in [0, high)
    fill: float | tuple[float, ...] | None = None

    def __str__(self) -> str:
        """As `--input` takes it."""
        shape = ",".join(map(str, self.shape)) if self.dtype else "x".join(map(str, self.shape))
        text = f"{self.dtype}[{shape}]" if self.dtype else shape or "float32[]"
        return text if self.high is None else f"{text}<{self.high}"

    @property
    def whole(self) -> bool:
        """True for integers."""
        return self.dtype in INTEGERS

    def make(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor with these values on the CPU; `dtype`, or else float32, stands in when the spec has none."""
        import torch

        kind = getattr(torch, self.dtype) if self.dtype else dtype or torch.float32
        if self.fill is not None:
            return torch.tensor(self.fill, dtype=kind).expand(self.shape).clone()
        if self.dtype == "bool":
            return torch.rand(self.shape, generator=generator) < 0.5
        if self.whole:
            return torch.randint(self.high or 2, self.shape, generator=generator, dtype=kind)
        if self.high is not None:
            return torch.rand(self.shape, generator=generator, dtype=kind) * self.high
        return torch.randn(self.shape, generator=generator, dtype=kind)


Literal = None | bool | int | float | str


@dataclass(frozen=True)
class InputSpec:
    """One `--input`: a tensor or a plain value, by position or by name."""

    value: TensorSpec | Literal
    name: str | None = None

    def __str__(self) -> str:
        """As `--input` takes it."""
        text = str(self.value) if isinstance(self.value, TensorSpec) else repr(self.value)
        return f"{self.name}={text}" if self.name else text


def parse(text: str) -> InputSpec:
    """Reads one `--input`; raises SpecError."""
    named = _NAME.fullmatch(text)
    name, body = (named[1], named[2].strip()) if named else (None, text.strip())
    spec = _tensor(body, text, named=name is not None)
    if spec is not None:
        return InputSpec(spec, name)
    try:
        value = ast.literal_eval(body)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise SpecError(_unreadable(body, text)) from None
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise SpecError(_unreadable(body, text))
    if name is None:
        raise SpecError(f"the input `{text}` is a plain value without a name", f"write name={body}")
    return InputSpec(value, name)


def _tensor(body: str, text: str, *, named: bool) -> TensorSpec | None:
    full, short = _TENSOR.fullmatch(body), _SHORT.fullmatch(body)
    if full:
        dtype = _dtype(full[1], text)
        sizes = [row.strip() for row in full[2].split(",")] if full[2].strip() else []
        return _checked(TensorSpec(_sizes(sizes, body, text), dtype, _high(full[3], text)), text)
    if short and ("x" in body or short[2] or not named):
        high = _high(short[2], text)
        return _checked(TensorSpec(_sizes(short[1].split("x"), body, text), "int64" if high else None, high), text)
    return None


def _dtype(name: str, text: str) -> str:
    dtype = _ALIASES.get(name, name)
    if dtype in DTYPES:
        return dtype
    near = difflib.get_close_matches(name, (*DTYPES, *_ALIASES), n=1)
    raise SpecError(
        f"the input `{text}` has an unknown dtype `{name}`" + (f" (did you mean `{near[0]}`?)" if near else ""),
        f"the dtypes are {', '.join((*DTYPES, *_ALIASES))}",
    )


def _sizes(rows: Sequence[str], body: str, text: str) -> tuple[int, ...]:
    if any(len(row) > _DIGITS for row in rows):
        raise SpecError(f"the input `{text[:40]}…` has a size that is too large")
    if not all(row.isascii() and row.isdigit() and int(row) > 0 for row in rows):
        raise SpecError(f"the input `{text}` has a size that is not a positive whole number{_did_you_mean(body, text)}")
    return tuple(map(int, rows))


def _high(row: str | None, text: str) -> int | None:
    if row is None:
        return None
    if not (row.isascii() and row.isdigit() and len(row) <= _DIGITS and int(row) > 0):
        raise SpecError(f"the bound `<{row}` of the input `{text}` is not a positive whole number")
    return int(row)


def _checked(spec: TensorSpec, text: str) -> TensorSpec:
    if spec.high is None:
        return spec
    if not spec.whole:
        raise SpecError(f"the input `{text}` has a bound, which only integers take")
    kind = spec.dtype or "int64"
    largest = 2 ** (int(kind.strip("uint")) - kind.startswith("int")) - 1
    if spec.high > largest:
        raise SpecError(f"the bound of the input `{text}` is above {largest}, the largest {spec.dtype}")
    return spec


def _unreadable(body: str, text: str) -> str:
    return f"the input `{text}` cannot be read{_did_you_mean(body, text)}" if text.strip() else "an input is empty"


def _did_you_mean(body: str, text: str) -> str:
    """The text as it should be written, where it holds sizes and at most a dtype and a bound."""
    match = _NEAR.fullmatch(body)
    word = (match["dtype"] or match["after"] or "").lower() if match else ""
    dtype = _ALIASES.get(word, word)
    if match is None or (word and dtype not in DTYPES):
        return ""
    sizes = tuple(int(size) for size in re.findall(r"\d+", match["sizes"]))
    meant = str(TensorSpec(sizes, dtype or None, int(match["high"]) if match["high"] else None))
    return f"; did you mean `{text.replace(body, meant)}`?"
