"""How long `bnlint check` takes for a target that has not changed since, against the first time.

python benchmarks/cache.py [TARGET ...]; exits 1 when an answer from the cache takes more than a tenth.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

TARGETS = ("examples/tiny_gpt.py:GPT", "examples/resnet50.py", "examples/unet.py")
LIMIT = 0.1


def seconds(target: str, folder: str) -> float:
    command = [sys.executable, "-m", "bnlint", "check", target, "--isolated", "--exit-zero", "--cache-dir", folder]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    slow = 0
    print(f"{'target':30} {'cold':>8} {'warm':>8} {'ratio':>7}")
    for target in sys.argv[1:] or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            cold = seconds(target, folder)
            warm = min(seconds(target, folder) for _ in range(3))
        print(f"{target:30} {cold:6.2f} s {warm:6.2f} s {warm / cold:7.3f}")
        slow += warm / cold > LIMIT
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
