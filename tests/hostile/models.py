"""Models whose code does what no model should; each class is one case of tests/test_worker.py."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from torch import nn


class Healthy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)


class HangInit(Healthy):
    def __init__(self):
        super().__init__()
        while True:
            time.sleep(0.1)  # here: HangInit


class HangForward(Healthy):
    def forward(self, x):
        while True:
            time.sleep(0.1)  # here: HangForward


class ExitForward(Healthy):
    def forward(self, x):
        sys.exit(0)  # here: ExitForward


class ExitInit(Healthy):
    def __init__(self):
        sys.exit("no data")  # here: ExitInit


class InterruptForward(Healthy):
    def forward(self, x):
        raise KeyboardInterrupt  # here: InterruptForward


class InterruptInit(Healthy):
    def __init__(self):
        raise KeyboardInterrupt  # here: InterruptInit


class OsExit(Healthy):
    def __init__(self):
        print("about to leave")
        os._exit(3)


class Killed(Healthy):
    def forward(self, x):
        os.kill(os.getpid(), 9)


class Segfault(Healthy):
    def forward(self, x):
        return ctypes.string_at(0)  # here: Segfault


class Recursion(Healthy):
    def forward(self, x):
        return self(x)


class DeepStack(Healthy):
    def __init__(self):
        super().__init__()
        sys.setrecursionlimit(10**7)
        self.dig(0)

    def dig(self, n):
        return sorted([n], key=self.dig)


class PythonMemory(Healthy):
    def __init__(self):
        super().__init__()
        self.data = bytearray(2**40)  # here: PythonMemory


class TorchMemory(Healthy):
    def __init__(self):
        super().__init__()
        self.big = nn.Linear(2**20, 2**20)  # here: TorchMemory


class MemoryInForward(Healthy):
    def forward(self, x):
        return bytearray(2**40)  # here: MemoryInForward


class Forks(Healthy):
    def __init__(self):
        super().__init__()
        os.fork()
        if os.fork() == 0:
            sys.exit(5)


class Noisy(Healthy):
    def __init__(self):
        super().__init__()
        assert sys.stdin.read() == ""
        print("réseau ✓ \udc80")
        for _ in range(200):
            print("x" * 100_000)
            print("y" * 100_000, file=sys.stderr)
            os.write(1, b'{"event": "answer", "answer": 1}\n' * 1000)
        os.close(1)
        sys.stderr.close()


class ClosesEverything(Healthy):
    def __init__(self):
        super().__init__()
        os.closerange(0, 256)


class LeavesOrphan(Healthy):
    def __init__(self):
        super().__init__()
        code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
        pid_file = Path(os.environ["BNLINT_TEST_ORPHANS"], type(self).__name__)
        subprocess.Popen([sys.executable, "-c", code, pid_file])
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.01)


class LeavesOrphanAndHangs(LeavesOrphan):
    def __init__(self):
        super().__init__()
        time.sleep(600)  # here: LeavesOrphanAndHangs
