"""The paper's claims, each a command: `hetsyn claim NAME`."""

from __future__ import annotations

from importlib import import_module

from hetsyn_plugins.claims.claim import Claim

CLAIMS: dict[str, Claim] = {}
for part in ("patterns", "dms", "speech", "visual"):
    try:  # TEMPORARY
        CLAIMS |= import_module(f"hetsyn_plugins.claims.{part}").CLAIMS
    except ModuleNotFoundError:
        pass
