"""The command line: one module for each command, what they share, and the terminal."""

from jpegcurr.cli.app import main

__all__ = ["main"]
