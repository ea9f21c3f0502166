"""python -m dummyforcing_core COMMAND: demo, generate, take, compare, profile, vbench, verify, convert, ..."""

from .cli import signals

if __name__ == "__main__":
    signals.leave_at_once()  # before everything else is imported: Ctrl-C would give its traceback

import argparse
import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .cli.parser import Parser
from .cli.terminal import open_missing_streams, say, warn
from .errors import DummyForcingError, shown

# Module of cli/ -> what it does. Only the one that is asked for is imported: the others would import torch for nothing.
COMMANDS = {
    "demo": "make a clip with the bundled model",
    "generate": "make clips from prompts",
    "take": "go on with a take, branch it, decode it, see what is in it",
    "compare": "one clip under several policies, side by side",
    "profile": "score a model's heads and save the profile",
    "vbench": "sample VBench's prompts, to be scored by VBench",
    "verify": "one PASS / FAIL page on a checkpoint",
    "convert": "rewrite a checkpoint as a ComfyUI-ready .safetensors file",
    "models": "list checkpoint files, licences and the commands that fetch them",
    "doctor": "print versions, devices and attention backends",
}


OUT_OF_MEMORY = (
    "memory ran out; choose a smaller --size, fewer --frames or a policy that holds less (--policy dummy), or keep the "
    "weights in main memory with --offload"
)


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, with the arguments of the one that `argv` begins with."""
    parser = Parser(prog="dummyforcing_core", description="Autoregressive video diffusion with per-head KV caches.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, about in COMMANDS.items():
        command = subparsers.add_parser(name, help=about)
        if name in argv[:1]:
            module = import_module(f".cli.{name}", __package__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command. 0: done; 1: nobody reads the output; 2: bad input, one line on stderr; 128 + n: by signal n."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = build_parser(words).parse_args(words)
        args.words = words[1:]
        signals.interrupt()  # all is imported: from here on there may be something to save
        code = _run(args)
        signals.ignore()
        return code
    except KeyboardInterrupt as error:
        signals.ignore()
        say("interrupted")
        return 128 + (error.args[0] if error.args else signal.SIGINT)


def _run(args: argparse.Namespace) -> int:
    """The command's exit code; that of an error if there is one."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: warn(str(message))
        try:
            code: int = args.run(args)
            sys.stdout.flush()  # what cannot be written is told of here, not at the interpreter's end
            return code
        except DummyForcingError as error:
            say(f"error: {error}")
            return 2
        except BrokenPipeError:  # `| head` has seen enough
            _drop_stdout()
            return 1
        except OSError as error:
            if error.filename is not None:  # of a file, so not of stdout
                say(f"error: {shown(error.filename, 200)}: {error.strerror}; name another path")
                return 2
            _drop_stdout()
            say(f"error: cannot write the output: {error.strerror or error}; send it elsewhere")
            return 2
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            say(f"error: {OUT_OF_MEMORY}")
            return 2


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch says so in a RuntimeError of its own or by its text."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _drop_stdout() -> None:
    """Sends what is still buffered nowhere: the interpreter would try to write it again at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stdout that is no file has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may lack a letter of the prompt
    raise SystemExit(main())
