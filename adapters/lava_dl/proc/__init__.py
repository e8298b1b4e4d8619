"""Lava processes, each in a folder of its own: Lava imports and runs every file beside a process."""
