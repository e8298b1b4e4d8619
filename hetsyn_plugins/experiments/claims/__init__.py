"""The paper's claims, each a command: `hetsyn claim NAME`."""

from __future__ import annotations

from hetsyn_plugins.experiments.claims import delays, dms, images, patterns, speech, timescales, voices
from hetsyn_plugins.experiments.claims.claim import Claim

CLAIMS: dict[str, Claim] = {
    **patterns.CLAIMS,
    **dms.CLAIMS,
    **speech.CLAIMS,
    **voices.CLAIMS,
    **images.CLAIMS,
    **timescales.CLAIMS,
    **delays.CLAIMS,
}
