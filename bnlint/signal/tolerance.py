"""How far two runs of one model may be apart, by the precision they are computed in."""

from __future__ import annotations

from collections.abc import Iterable


class Tolerance:
    """The options of a rule that compares outputs: relative distances, by dtype."""

    float32: float = 0.005
    float16: float = 0.03
    bfloat16: float = 0.15

    def limit(self, dtypes: Iterable[str | None]) -> float:
        """The widest of those that hold for the dtypes that the model computes in."""
        known = {"float32": self.float32, "float16": self.float16, "bfloat16": self.bfloat16}
        return max((known[dtype] for dtype in dtypes if dtype in known), default=self.float32)
