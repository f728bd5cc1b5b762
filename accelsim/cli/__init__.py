"""The command line: a module for each command or group of commands.

Imports run one way: `arguments`, `progress` and `provenance` are what commands share, the commands' modules take from
them, and `main` puts the commands into one parser. Heavy imports happen inside the commands, so that
``accelsim --help`` answers at once.
"""

from accelsim.cli.main import COMMANDS, build_parser, main

__all__ = ["COMMANDS", "build_parser", "main"]
