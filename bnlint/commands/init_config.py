"""`bnlint init-config`: finds the project's models and writes the configuration that checks them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from bnlint import target
from bnlint.commands.options import ENVIRONMENT
from bnlint.config import ConfigError
from bnlint.config.files import nearest, shown_path
from bnlint.report.terminal import Progress, put
from bnlint.report.text import clean
from bnlint.whole import write

_HEAD = "# Checked by `bnlint check`; the keys are explained in docs/configuration.md of bnlint.\n"
_HOOK = """\
  - repo: local
    hooks:
      - id: bnlint
        name: bnlint
        entry: bnlint check --changed
        language: system
        types: [python]
        require_serial: true"""


@click.command("init-config", context_settings=ENVIRONMENT)
@click.argument("places", nargs=-1, type=click.Path(exists=True))
@click.option("--dry-run", is_flag=True, help="Print the section and write nothing.")
def init_config(places: tuple[str, ...], dry_run: bool) -> int:
    """Finds the models in the files and folders (default: here) and writes their targets into the configuration."""
    here = Path.cwd()
    known = nearest(here)
    if known is not None and known.parent == here and not dry_run:
        raise ConfigError(f"`{shown_path(known)}` configures bnlint already; --dry-run prints what would be written")
    found, left_out = _models(places or (".",))
    if not found and not left_out:
        put(f"no model was found in {clean(', '.join(places) or here.as_posix())}", sys.stderr)
        return 0
    project = here / "pyproject.toml"
    file = project if project.is_file() else here / "bnlint.toml"
    text = _section(found, left_out, "tool.bnlint." if file is project else "")
    if dry_run:
        put(text.rstrip("\n"), sys.stdout)
        return 0
    before = project.read_bytes().decode() if file is project else ""
    newline = "\r\n" if "\r\n" in before else "\n"
    write(file, before.rstrip() + (f"\n\n{text}" if before else text).replace("\n", newline))
    noun = "target" if len(found) == 1 else "targets"
    put(f"wrote {len(found)} {noun} into {file.name}; `bnlint check` checks them", sys.stderr)
    hooks = here / ".pre-commit-config.yaml"
    if hooks.is_file() and "bnlint" not in hooks.read_text(encoding="utf-8", errors="replace"):
        put(f"to check them in every commit, add this to {hooks.name}:\n\n{_HOOK}", sys.stderr)
    return 0


def _models(places: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The targets that can be built, and what cannot with the reason; parts of other models are neither."""
    from bnlint import worker

    found: list[str] = []
    left_out: list[tuple[str, str]] = []
    with Progress(sys.stderr) as progress:
        for text in target.expand(places):
            try:
                names, skipped = worker.discover(Path(text), on_stage=progress.stage)
            except worker.TargetFailed as failure:
                left_out.append((text, failure.report.findings[0].message))
                continue
            found += names
            left_out += [(f"{text}:{name}", why) for name, why in skipped if not why.startswith("is a part of")]
    return found, left_out


def _section(found: Sequence[str], left_out: Sequence[tuple[str, str]], prefix: str) -> str:
    blocks = [_HEAD.rstrip("\n")]
    if prefix:
        blocks[0] += f"\n[{prefix.rstrip('.')}]"
    blocks[0] += '\nfail-on = "warning"'
    blocks += [f"[[{prefix}targets]]\ntarget = {json.dumps(text, ensure_ascii=False)}" for text in found]
    for text, why in left_out:
        reason = clean(why.replace("\n", " "))
        blocks.append(f"# {reason}\n# [[{prefix}targets]]\n# target = {json.dumps(text, ensure_ascii=False)}")
    return "\n\n".join(blocks) + "\n"
