"""Where the reports of a run go: one to the terminal, others into files."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bnlint.job import Report
from bnlint.paths import real
from bnlint.registry import did_you_mean
from bnlint.report import FORMATS, render
from bnlint.report.terminal import put
from bnlint.report.text import Look
from bnlint.whole import write


@dataclass(frozen=True)
class Output:
    """One report: its format, and its file when it does not go to stdout."""

    format: str
    file: Path | None = None


def parse_outputs(texts: Sequence[str]) -> list[Output]:
    """Reads `--output FORMAT[:FILE]`."""
    found = []
    for text in texts:
        name, _, file = text.partition(":")
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS) or f"; it is one of {', '.join(FORMATS)}"
            raise click.UsageError(f"--output: unknown format `{name}`{hint}")
        found.append(Output(name, Path(file) if file else None))
    return found


def checked_outputs(outputs: Sequence[Output]) -> list[Output]:
    """The outputs, when all of them can be written before anything is checked."""
    if sum(row.file is None for row in outputs) > 1:
        raise click.UsageError(
            "two reports cannot share the terminal; give one a file, as in `--output sarif:out.sarif`"
        )
    for row in outputs:
        if row.file and not row.file.parent.is_dir():
            raise click.UsageError(f"`{row.file}` cannot be written: there is no folder `{row.file.parent}`")
        if row.file and row.file.is_dir():
            raise click.UsageError(f"`{row.file}` cannot be written: it is a folder")
    files = [real(row.file) for row in outputs if row.file]
    if len(set(files)) < len(files):
        raise click.UsageError("two reports cannot go into one file")
    return list(outputs)


def write_outputs(report: Report, outputs: Sequence[Output], look: Look, color: str) -> None:
    """Writes the files, then prints what goes to the terminal, then adds the table to the summary of GitHub's job."""
    for row in outputs:
        if row.file:
            text = render(report, row.format, replace(look, color=color == "always"))
            write(row.file, text + "\n" if text else "")
    for row in outputs:
        if row.file is None:
            put(render(report, row.format, look), sys.stdout, color=look.color)
    if any(row.format == "github" for row in outputs):
        _summarise(report)


def plot_file(ctx: click.Context, param: click.Parameter, file: Path | None) -> Path | None:
    """The file of `--plot`, when it can be written, before anything is checked."""
    if file is None:
        return None
    if file.suffix not in (".svg", ".png"):
        raise click.BadParameter(f"`{file}` is neither an .svg nor a .png file")
    if not file.parent.is_dir():
        raise click.BadParameter(f"`{file}` cannot be written: there is no folder `{file.parent}`")
    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError('--plot needs matplotlib; install it: `pip install "bnlint[plot]"`')
    return file


def draw(report: Report, file: Path) -> None:
    """Writes the picture of `--plot`."""
    from bnlint.report.plot import plot

    try:
        plot(report, file)
    except OSError as error:
        raise click.UsageError(f"cannot write `{file}`: {error.strerror}") from error


def _summarise(report: Report) -> None:
    from bnlint.report.github import SUMMARY, summary

    file = os.environ.get(SUMMARY)
    if file:
        try:
            with Path(file).open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(summary(report))
        except OSError as error:
            raise click.UsageError(f"cannot write the summary `{file}`: {error.strerror}") from error
