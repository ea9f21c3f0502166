"""Another process that owns names."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from dummyforcing_core.ownership import owned
with owned(*map(Path, sys.argv[1:])):
    print("owned", flush=True)
    sys.stdin.read()
"""


class Owner:
    """Owns names until it is told to end, or killed."""

    def __init__(self, *paths: Path):
        command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "owned\n"

    def end(self, by: signal.Signals | None = None) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        if by:
            self.process.send_signal(by)
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
