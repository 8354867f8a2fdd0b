"""Rules that are no more. A code or a name that stands here is never used again, and its line stays.

Each says in which version it went and what takes its place, as the end of a sentence: `"BN999": "was merged into BN401
in 0.3.0"`. `docs/versioning.md` is generated from this.
"""

from __future__ import annotations

REMOVED: dict[str, str] = {}
