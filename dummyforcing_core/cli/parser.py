"""The command line's parser."""

import argparse

from ..errors import MESSAGE, shown


class Parser(argparse.ArgumentParser):
    """Prints one line for a bad argument, without the usage in front."""

    def error(self, message: str):
        self.exit(2, f"error: {shown(message, MESSAGE)} (see {self.prog} --help)\n")
