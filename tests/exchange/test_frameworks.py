"""The one list of frameworks, and what is said where one is not installed."""

from __future__ import annotations

import importlib.util

import pytest

from hetsyn_plugins.exchange import frameworks


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("snntorch", r"snntorch is not installed: pip install 'hetsyn_plugins\[snntorch\]'$"),
        ("norse", r"norse is not installed: pip install 'hetsyn_plugins\[norse\]'$"),
        (
            "lava_dl",
            r"lava is not installed: pip install 'hetsyn_plugins\[lava\]' \(Python 3.10 only\); training, .* work",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(nothing_installed: None, name: str, says: str) -> None:
    assert not frameworks.is_installed(name)
    for call in (frameworks.require, frameworks.adapter, frameworks.register, frameworks.unregister):
        with pytest.raises(ImportError, match=says):
            call(name)


def test_register_without_a_name_takes_those_that_are_there(nothing_installed: None) -> None:
    assert frameworks.register() == frameworks.unregister() == ()


@pytest.mark.parametrize("name", ["snntorch", "norse"])
def test_what_is_installed_has_an_adapter(name: str) -> None:
    pytest.importorskip(name)
    assert frameworks.why_not_installed(name) is None
    module = frameworks.adapter(name)
    assert callable(module.install) and callable(module.uninstall) and callable(module.build_layer)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="framework: expected one of snntorch, norse, lava_dl, got 'brian2'"):
        frameworks.register("brian2")
