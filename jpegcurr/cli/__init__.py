"""The command line: one module per command, with its arguments and its output, and what the commands share.

``app`` puts the commands together, ``options`` holds what several of them accept, and ``terminal`` prints.
"""

from jpegcurr.cli.app import main

__all__ = ["main"]
