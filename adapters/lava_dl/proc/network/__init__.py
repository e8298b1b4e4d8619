"""The network of a file and its model, and nothing else: Lava imports and runs every file in this folder."""
