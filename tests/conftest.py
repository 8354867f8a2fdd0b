"""What every test leaves behind of imports: nothing that another test could see."""

import sys

import pytest


@pytest.fixture(autouse=True)
def import_state():
    """The search path as before, and no module of a model that a test wrote."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("net", "net_", "example"):
        sys.modules.pop(name, None)
