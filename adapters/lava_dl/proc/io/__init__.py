"""Feeding and reading a whole run through shared memory, and nothing else: Lava imports and runs every file here."""
