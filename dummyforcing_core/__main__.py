"""python -m dummyforcing_core COMMAND: demo, generate, compare, profile, vbench, verify, convert, models, doctor."""

import argparse
import io
import sys
import warnings

from . import __version__
from .cli import compare, convert, demo, doctor, generate, models, profile, vbench, verify
from .errors import DummyForcingError

COMMANDS = (demo, generate, compare, profile, vbench, verify, convert, models, doctor)


class Parser(argparse.ArgumentParser):
    """Prints one line for a bad argument, without the usage in front."""

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="dummyforcing_core", description="Autoregressive video diffusion with per-head KV caches.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command. 0: done; 2: bad input, one line on stderr; 130: interrupted."""
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
        try:
            return args.run(args)
        except DummyForcingError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the console may lack a letter of the prompt
    raise SystemExit(main())
