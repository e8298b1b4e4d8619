"""The command `hetsyn`."""

from hetsyn_plugins.cli.main import main

__all__ = ["main"]
