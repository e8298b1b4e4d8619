"""The HetSyn process and its models, and nothing else: Lava imports and runs every file in this folder."""
