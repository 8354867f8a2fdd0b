"""`python -m bnlint`."""

from __future__ import annotations

import sys

from bnlint.cli import main

sys.exit(main())
