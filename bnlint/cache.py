"""Answers of earlier runs, in JSON: an unchanged target is not built again, and torch is not imported.

An answer counts as long as its question is the same (the target, how it is checked, bnlint itself, the packages, the
interpreter, the device) and so is the content of every file of the user's that the run had read.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import bnlint
from bnlint.job import Job, TargetReport
from bnlint.whole import WriteError, write

_VERSION = 1
_ENTRY = re.compile(r"[0-9a-f]{64}\.json")
_KEPT = 30 * 24 * 3600.0  # seconds since an answer was written
_HASHED = 64 * 2**20  # bytes; of a larger file the size and the time count
_VARIABLES = ("CUDA_", "PYTORCH_", "TORCH_", "HF_")
_PACKAGES = (".dist-info", ".egg-info", ".egg-link", ".pth")


class Cache:
    """A folder of answers. What cannot be read or written in it is as if it were not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def report(self, job: Job) -> TargetReport | None:
        """The report of an earlier check."""
        answer = self._answer("check", job)
        try:
            return None if answer is None else TargetReport.from_dict({**answer, "cached": True})
        except (TypeError, ValueError, KeyError):
            return None

    def keep_report(self, job: Job, report: TargetReport) -> None:
        """Remembers a check that did happen."""
        if report.status != "failed" and not any(finding.code == "BN909" for finding in report.findings):
            self._keep("check", job, report.files, report.to_dict())

    def models(self, job: Job) -> tuple[list[str], list[tuple[str, str]]] | None:
        """The models that were found in a file, and what was left out."""
        answer = self._answer("discover", job)
        try:
            return (
                None if answer is None else (list(answer["targets"]), [(row[0], row[1]) for row in answer["skipped"]])
            )
        except (TypeError, KeyError, ValueError):
            return None

    def keep_models(self, job: Job, targets: list[str], skipped: list[tuple[str, str]], files: list[str]) -> None:
        """Remembers which models a file has."""
        self._keep("discover", job, files, {"targets": targets, "skipped": skipped})

    def clean(self) -> int:
        """Removes every answer and says how many there were."""
        entries = list(self._entries())
        for file in entries:
            with contextlib.suppress(OSError):
                file.unlink()
        return len(entries)

    def _answer(self, kind: str, job: Job) -> Any:
        try:
            entry = json.loads(self._file(kind, job).read_text(encoding="utf-8"))
            same = entry["version"] == _VERSION and all(
                _digest(name) == known for name, known in entry["files"].items()
            )
            return entry["answer"] if same else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _keep(self, kind: str, job: Job, files: Iterable[str], answer: Any) -> None:
        digests = {name: _digest(name) for name in files}
        if not digests or None in digests.values():
            return
        text = json.dumps({"version": _VERSION, "files": digests, "answer": answer}, default=str)
        with contextlib.suppress(WriteError, OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write(self._file(kind, job), text)
            for file in self._entries():
                if file.stat().st_mtime < time.time() - _KEPT:
                    file.unlink(missing_ok=True)

    def _entries(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from (file for file in self.folder.iterdir() if _ENTRY.fullmatch(file.name))

    def _file(self, kind: str, job: Job) -> Path:
        question = [kind, job.to_json(), str(Path.cwd()), _here(), _rules(job.rule_paths)]
        question += [platform.node()] if job.device != "cpu" else []
        question += [_content(Path(name)) or "" for name in (job.weights, job.batch) if name is not None]
        return self.folder / f"{_sha256(json.dumps(question).encode())}.json"


def default_folder() -> Path | None:
    """Where programs keep what can be made again; None when that is nowhere."""
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "bnlint"


@cache
def _here() -> list[Any]:
    """Everything about this installation that an answer may depend on."""
    packages = sorted(row for folder in sys.path for row in _installed(folder))
    variables = sorted((key, value) for key, value in os.environ.items() if key.startswith(_VARIABLES))
    own = [(str(file), *_state(file)) for folder in bnlint.__path__ for file in _sources(Path(folder))]
    return [bnlint.__version__, sys.version, sys.executable, platform.platform(), sys.path, packages, variables, own]


def _installed(folder: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (path.name for path in Path(folder or ".").iterdir() if path.name.endswith(_PACKAGES))


def _sources(folder: Path) -> list[Path]:
    """The engine's files or, of a checkout that holds `rules/` beside them, the rules'."""
    inside = folder if (folder / "rule.py").is_file() else folder / "rules"
    return sorted(inside.rglob("*.py"))


def _rules(rule_paths: Iterable[str]) -> list[Any]:
    files = [
        file for text in rule_paths for file in ([Path(text)], sorted(Path(text).rglob("*.py")))[Path(text).is_dir()]
    ]
    return [(str(file), _digest(str(file))) for file in files]


def _state(file: Path) -> tuple[int, int]:
    known = file.stat()
    return known.st_size, known.st_mtime_ns


def _digest(name: str) -> str | None:
    """What tells a file's content from another; None when it cannot be read."""
    try:
        size, changed = _state(Path(name))
        return f"{size}-{changed}" if size > _HASHED else _sha256(Path(name).read_bytes())
    except (OSError, ValueError):
        return None


def _content(file: Path) -> str | None:
    """Tells a file's content from any other, however large it is."""
    import hashlib

    found = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                found.update(chunk)
    except OSError:
        return None
    return found.hexdigest()


def _sha256(data: bytes) -> str:
    import hashlib  # loads OpenSSL, and `--help` does without

    return hashlib.sha256(data).hexdigest()
