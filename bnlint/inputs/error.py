"""Why there is no input to run the model with."""

from __future__ import annotations

from bnlint.rule import Finding, Place, engine_finding


class InputError(Exception):
    """The input cannot be used or found; `finding` says why and what to write."""

    def __init__(
        self, message: str, *, help: str = "", note: str = "", place: Place | None = None, **evidence: object
    ) -> None:
        super().__init__(message)
        self.finding: Finding = engine_finding("BN903", message, help=help, note=note, place=place, evidence=evidence)
