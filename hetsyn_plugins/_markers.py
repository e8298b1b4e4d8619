"""The pytest plugin: it registers a marker and nothing else, and loads nothing, since every pytest run imports it.

Importing the package's other parts belongs into `hetsyn_plugins.testing`, which a test imports that wants them.
"""

from __future__ import annotations

from typing import Any

MARKER = "hetsyn: a check of the HetSynLIF contract over one backend (hetsyn_plugins.testing)"


def pytest_configure(config: Any) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)
