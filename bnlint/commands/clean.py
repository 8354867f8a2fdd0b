"""`bnlint clean`: removes the answers of earlier runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bnlint.cache import Cache, default_folder
from bnlint.commands.options import ENVIRONMENT
from bnlint.config import Plan, find_config
from bnlint.report.terminal import put
from bnlint.report.text import clean as safe


@click.command(context_settings=ENVIRONMENT)
@click.option("--cache-dir", metavar="FOLDER", help="The folder; default: the configured one, else the user's.")
def clean(cache_dir: str | None) -> int:
    """Removes what earlier runs remembered of unchanged targets."""
    told = cache_dir or Plan(find_config(Path.cwd())).default.cache_dir
    folder = Path(told) if told else default_folder()
    count = Cache(folder).clean() if folder else 0
    put(f"removed {count} answers from {safe(str(folder))}", sys.stderr)
    return 0
