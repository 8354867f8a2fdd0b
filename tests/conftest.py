"""What every test leaves behind of imports: nothing that another test could see."""

import os
import sys
import tempfile

import pytest

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="bnlint-tests-")  # not the user's


@pytest.fixture(autouse=True)
def import_state():
    """The search path as before, and no module of a model that a test wrote."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("net", "net_", "example"):
        sys.modules.pop(name, None)
