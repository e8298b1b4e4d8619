"""The paper's claims, each a command: `hetsyn claim NAME`."""

from __future__ import annotations

from hetsyn_plugins.claims import dms, patterns, speech, visual
from hetsyn_plugins.claims.claim import Claim

CLAIMS: dict[str, Claim] = {**patterns.CLAIMS, **dms.CLAIMS, **speech.CLAIMS, **visual.CLAIMS}
