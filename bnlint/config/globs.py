"""Patterns for file paths (`tests/**`) and module paths (`backbone.**`)."""

from __future__ import annotations

import re
from functools import cache


@cache
def path_pattern(glob: str) -> re.Pattern[str]:
    """For paths with forward slashes; a pattern without one matches the file's name in any folder."""
    return re.compile(_translated(glob if "/" in glob else f"**/{glob}", "/"), re.DOTALL)


@cache
def module_pattern(glob: str) -> re.Pattern[str]:
    """For module paths; `*` stands for one name or a part of it, `.**` for a module and all below it."""
    return re.compile(_translated(glob, "."), re.DOTALL)


def _translated(glob: str, separator: str) -> str:
    sep, one = re.escape(separator), f"[^{re.escape(separator)}]"
    parts = glob.split(separator)
    text = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            above = text.endswith(sep) and last and separator == "."
            text = f"{text.removesuffix(sep)}(?:{sep}.*)?" if above else text + (".*" if last else f"(?:.*{sep})?")
            continue
        escaped = re.escape(part).replace(r"\*", f"{one}*").replace(r"\?", one)
        text += escaped + ("" if last else sep)
    return text
