"""How the instructions of a static check grow with the depth of the model: `scale.py`, counted in place of timed.

The processor's instructions are counted by valgrind (callgrind), fifty times slower than without, and are the same on
every machine and under any load. A model is built in a fork of a process that has checked one before, and checked in a
fork of that; the difference is the check.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from deep import FAMILIES
from scale import GROWTH, check, grown
from tabulate import tabulate


def main() -> None:
    """Counts, prints the table, and exits with 1 when a growth is above the limit."""
    parser = argparse.ArgumentParser(description="How the instructions of a static check grow with the depth.")
    parser.add_argument("--depth", type=int, default=30, help="blocks of the shallower model (default 30)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="default all")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    depths = (1, arguments.depth, 10 * arguments.depth)
    if arguments.inside:
        run(arguments.families[0], depths, arguments.inside)
        return
    rows = [row(name, depths) for name in arguments.families]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    sys.exit(int(any(found["verdict"] != "ok" for found in rows)))


def row(name: str, depths: tuple[int, ...]) -> dict[str, object]:
    """One family's line of the table: millions of instructions by depth, and their growth."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={folder}/%p"]
        command += [sys.executable, __file__, "--families", name, "--depth", str(depths[1]), "--inside", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        cost = {d: _counted(folder, f"{d}.check") - _counted(folder, f"{d}.build") for d in depths}
    growth = grown(cost)
    millions = {f"{d} block{'s'[: d > 1]}": round(count / 1e6) for d, count in cost.items()}
    return {"family": name, **millions, "growth": growth, "verdict": "ok" if growth <= GROWTH else "above the limit"}


def run(name: str, depths: tuple[int, ...], folder: Path) -> None:
    """Builds and checks a model of every depth, and leaves in `folder` the numbers of the processes that did."""
    make, spec = FAMILIES[name]
    check(make(1), spec)  # imports, caches
    for depth in depths:
        if not (builder := os.fork()):
            model = make(depth)
            if not (checker := os.fork()):
                check(model, spec)
                os._exit(0)
            os.waitpid(checker, 0)
            (folder / f"{depth}.check").write_text(str(checker))
            os._exit(0)
        os.waitpid(builder, 0)
        (folder / f"{depth}.build").write_text(str(builder))


def _counted(folder: str, name: str) -> float:
    log = Path(folder, Path(folder, name).read_text()).read_text()
    return float(re.findall(r"Collected : (\d+)", log)[-1])


if __name__ == "__main__":
    main()
