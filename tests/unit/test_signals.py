"""A signal ends a command at every moment: "interrupted", and 128 + its number."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.owners import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no such signals there")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# Runs the command line, and sends itself a signal when this module is about to be imported.
AT_IMPORT = """
import os, runpy, signal, sys
module, number = sys.argv[1], int(sys.argv[2])
class Sender:
    def find_spec(self, name, *rest):
        if name == module:
            os.kill(os.getpid(), number)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Sender())
sys.argv[:] = ["dummyforcing_core", *sys.argv[3:]]
runpy.run_module("dummyforcing_core", run_name="__main__", alter_sys=True)
"""
# Answers signals as a command that works does, then does what follows.
AT_WORK = """
import os, signal
from dummyforcing_core.cli import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
signals.leave_at_once()
signals.interrupt()
def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
"""


def python(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["argparse", "torch", "torch.nn", "numpy", "dummyforcing_core.cli.preflight", "av"])
def test_while_a_module_is_imported(tmp_path: Path, number: signal.Signals, module: str) -> None:
    words = "generate", "--prompt", "a red circle", "--frames", 9, "--size", "16x16", "--out", tmp_path / "a.mp4"
    done = python(AT_IMPORT, module, int(number), *words)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_ignored_stays_so() -> None:
    words = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert python(f"{words}\n{AT_IMPORT}", "torch", int(signal.SIGHUP), "doctor").returncode == 0


def test_a_second_one_disturbs_no_saving() -> None:
    saving = "try:\n    send()\nexcept KeyboardInterrupt as error:\n    send(signal.SIGINT); send(); print(error.args)"
    done = python(AT_WORK + saving)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(15,)\n", "")


@pytest.mark.parametrize("again", ["send()", "signals.check_swallowed()"])
def test_one_that_a_library_swallowed_is_not_lost(again: str) -> None:
    swallow = "try:\n    send()\nexcept BaseException:\n    pass\n"
    ended = f"try:\n    {again}\nexcept KeyboardInterrupt as error:\n    print(error.args)"
    done = python(AT_WORK + swallow + ended)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(15,)\n", "")


def test_a_command_that_is_done_keeps_its_exit_status() -> None:
    done = python(AT_WORK + "signals.ignore()\nsend(); send(signal.SIGINT); send(signal.SIGHUP)")
    assert (done.returncode, done.stderr) == (0, "")
