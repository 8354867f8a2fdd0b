"""How BN904 writes down what did not run."""

import pytest

from bnlint.untraced import _listed


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        (["BN602", "BN120", "BN601", "BN603"], "BN120, BN601 to BN603"),
        (["BN601", "BN602"], "BN601, BN602"),
        (["BN110", "BN108", "BN109", "OWN110", "OWN111"], "BN108 to BN110, OWN110, OWN111"),
        (["BN120"], "BN120"),
    ],
)
def test_codes_in_a_row(codes: list[str], text: str) -> None:
    assert _listed(codes) == text
