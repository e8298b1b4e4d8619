"""Lava processes, each in a folder of its own: Lava imports and runs every file beside a process."""

from hetsyn_plugins.adapters.lava_dl import runtime

runtime.require_lava_here()
