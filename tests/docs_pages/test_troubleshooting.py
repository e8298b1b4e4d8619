"""docs/howto/troubleshooting.md quotes messages that come: provoked here, or else they stand in the source."""

from __future__ import annotations

import ast
import functools
import importlib.util
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("snntorch")
pytest.importorskip("norse")

import norse.torch
import snntorch

import hetsyn_plugins
from hetsyn_plugins import NormalTau, checkpoint, deployment
from hetsyn_plugins.adapters import norse as ours
from hetsyn_plugins.adapters import snntorch_host
from hetsyn_plugins.adapters.snntorch import HetSynLeaky
from hetsyn_plugins.core import locks
from hetsyn_plugins.ops import loop_costs, rates

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "troubleshooting.md"
X = torch.rand(25, 4, 6)
HAS_LAVA = importlib.util.find_spec("lava") is not None
Provoked = dict[str, Callable[[], Any]]


def hidden(*sizes: int, **options: Any) -> HetSynLeaky:
    return HetSynLeaky(*sizes, init_hidden=True, **options)


def twice_backward() -> None:
    layer = hidden(6, 5)
    for _ in range(2):
        layer(X).sum().backward()


def recomputed() -> None:
    layer = hidden(6, 5)
    layer(X[0])
    out = torch.utils.checkpoint.checkpoint(layer, X[1].clone().requires_grad_(), use_reentrant=False)
    layer(X[2])
    out.sum().backward()


def second_derivative() -> None:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(HetSynLeaky(6, 5)(x)[0].sum(), x, create_graph=True)
    torch.autograd.grad(gradient.sum(), x)


def long_loop() -> None:
    told, loop_costs._told = loop_costs._told, False  # once a process
    loop_costs.took(torch.zeros(2, 3, 4), 1.0)
    loop_costs._told = told


def silent() -> None:
    said = rates._said.copy()  # a few times a process
    rates._said.clear()
    hidden(6, 50, weight=torch.zeros(50, 6))(X)
    rates._said[:] = said


def convert(*layers: nn.Module) -> Any:
    return hetsyn_plugins.convert(nn.Sequential(*layers), to="norse", dt=1e-3)


def export(layer: nn.Module, tmp: Path, **options: Any) -> Any:
    return deployment.export(nn.Sequential(layer), tmp / "x.net", clusters=2, **options)


def in_use(tmp: Path) -> None:
    with locks.locked(tmp), locks.locked(tmp):
        pass


def provoked(tmp: Path) -> Provoked:  # long: a table, a line each
    """What each of a user's mistakes is called, and the mistake."""
    (tmp / "cut.safetensors").write_bytes(b"cut off")
    big = torch.full((5, 6), 1e6)
    tau = NormalTau(20e-3, 5e-3, dt=1e-3)
    p = ours.HetSynLIFParameters
    return {
        "other features": lambda: HetSynLeaky(7, 5)(X),
        "float64": lambda: HetSynLeaky(6, 5)(X.double()),
        "NumPy": lambda: HetSynLeaky(6, 5)(X.numpy()),
        "NaN": lambda: HetSynLeaky(6, 5)(X * float("nan")),
        "decay above 1": lambda: HetSynLeaky(6, 5, alpha=1.5),
        "decays (M,)": lambda: HetSynLeaky(6, 5, alpha=torch.full((6,), 0.9)),
        "no dt": lambda: HetSynLeaky(6, 5, parametrization="tau"),
        "lengths of T": lambda: HetSynLeaky(6, 5)(X, lengths=[4] * 25),
        "second derivative": second_derivative,
        "no spike function": lambda: HetSynLeaky(6, 5, spike_grad=torch.sigmoid),
        "snnTorch's sigmoid": lambda: HetSynLeaky(6, 5, spike_grad=snntorch.surrogate.sigmoid(slope=25)),
        "long delay": lambda: HetSynLeaky(6, 5, delay=5, max_delay=3),
        "long loop": long_loop,
        "silent layer": silent,
        "gpu on the CPU": lambda: hetsyn_plugins.hetsyn_lif(X, big, 0.9, reset_decay=0.9, backend="gpu"),
        "traced": lambda: torch.jit.trace(hidden(6, 5), X[0]),
        "stock beside": lambda: nn.Sequential(hidden(6, 5), snntorch.Leaky(0.9, init_hidden=True))(X),
        "no init_hidden": lambda: nn.Sequential(HetSynLeaky(6, 5), hidden(5, 2))(X),
        "state given": lambda: hidden(6, 5)(X[0], torch.zeros(4, 5)),
        "Leaky's states": lambda: HetSynLeaky(6, 5)(X[0], torch.zeros(4, 5)),
        "other batch": lambda: HetSynLeaky(6, 5)(X[0, :3], *HetSynLeaky(6, 5)(X[0])[1:]),
        "init_leaky": lambda: HetSynLeaky(6, 5).init_leaky(),
        "reset to zero": lambda: HetSynLeaky(6, 5, reset_mechanism="zero"),
        "reset at once": lambda: HetSynLeaky(6, 5, reset_delay=False),
        "backward twice": twice_backward,
        "checkpointed": recomputed,
        "backprop": lambda: snntorch_host._count_returned(HetSynLeaky(6, 5)),
        "ReLU": lambda: convert(nn.Linear(6, 5), nn.ReLU(), HetSynLeaky(5, 2)),
        "Leaky to zero": lambda: convert(nn.Linear(6, 5), snntorch.Leaky(0.9, reset_mechanism="zero")),
        "pickled": lambda: pickle.dumps(snntorch.Leaky(0.9)),
        "step and sequence": lambda: norse.torch.SequentialState(ours.HetSynLIFCell(6, 5), ours.HetSynLI(5, 2))(X),
        "cell, sequence": lambda: ours.HetSynLIFCell(6, 5)(X),
        "sequence, step": lambda: ours.HetSynLIF(6, 5)(X[0]),
        "Lift": lambda: norse.torch.SequentialState(norse.torch.Lift(norse.torch.LIFCell()), ours.HetSynLIF(6, 5))(X),
        "Norse's p": lambda: ours.HetSynLIF(6, 5, norse.torch.LIFParameters()),
        "seconds": lambda: ours.HetSynLIF(6, 5, p(tau_syn_inv=0.02)),
        "a Parameter": lambda: p(tau_syn_inv=torch.tensor(50.0, requires_grad=True)),
        "adjoint": lambda: p(method="adjoint"),
        "Norse's LIF": lambda: convert(nn.Linear(6, 5), norse.torch.LIF()),
        "graded": lambda: export(hidden(6, 5, alpha=tau), tmp, calibration=X.numpy()),
        "one large weight": lambda: export(hidden(6, 5, alpha=tau, weight=big), tmp),
        "delays": lambda: export(hidden(6, 5, alpha=tau, delay=2.5), tmp),
        "cut file": lambda: checkpoint.load(tmp / "cut.safetensors"),
        "no file": lambda: checkpoint.load(tmp / "none.safetensors"),
        "folder in use": lambda: in_use(tmp),
    }


def provoked_in_lava() -> Provoked:
    from hetsyn_plugins.adapters.lava_dl.slayer import Dense

    neuron = {"threshold": 1.0}
    return {
        "time first": lambda: Dense(neuron, 6, 5)(X),
        "CUBA's argument": lambda: Dense({**neuron, "current_decay": 0.25}, 6, 5),
        "no threshold": lambda: Dense({}, 6, 5),
        "CUBA's tau_grad": lambda: Dense({**neuron, "tau_grad": 0.03}, 6, 5),
        "codebook": lambda: Dense(neuron, 6, 5, share="codebook"),
        "overflow": lambda: Dense(neuron, 6, 5, decay=1.0)(torch.full((2, 6, 400), 5000.0)),
    }


def messages_of(mistake: Callable[[], Any]) -> list[str]:
    """What a mistake is told: warnings, and the error if it is one."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            mistake()
            error = []
        except Exception as raised:
            error = [str(raised)]
    return [*error, *(str(warning.message) for warning in told)]


def quoted(text: str) -> list[str]:
    """The messages of the page, one a block."""
    return [block.strip() for block in re.findall(r"^```(?:text|console)\n(.*?)^```", text, flags=re.S | re.M)]


def pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, message.split("..."))), flags=re.S)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    mistakes = provoked(tmp_path_factory.mktemp("mistakes")) | (provoked_in_lava() if HAS_LAVA else {})
    return {name: messages_of(mistake) for name, mistake in mistakes.items()}


@functools.cache
def source_texts() -> tuple[str, ...]:
    """Every string that the source has, an f-string with \\0 for what is filled in."""
    texts = []
    for file in [*(ROOT / "hetsyn_plugins").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def in_source(message: str) -> bool:
    """Does each piece of a message, of a dozen letters and more, stand in a string of the source?"""
    pieces = [piece.strip(" :;,()") for part in message.split("...") for piece in re.split(r"3\.10, | there$", part)]
    long = [piece for piece in pieces if len(piece) >= 12]
    return bool(long) and all(any(piece in text for text in source_texts()) for piece in long)


OF_LAVA = quoted(
    PAGE.read_text().split("\n## Lava-DL\n")[1].split("\n## ")[0]
)  # most of which only Lava-DL lets happen
HOSTS = ("Prophesee Dataset Toolbox",)  # says so where it is imported, which no test can provoke again


@pytest.mark.parametrize("message", quoted(PAGE.read_text()), ids=lambda message: message[:40])
def test_a_message_that_is_quoted_comes_or_stands_in_the_source(message: str, told: dict[str, list[str]]) -> None:
    if message in OF_LAVA and not HAS_LAVA:
        pytest.skip("Lava ends at Python 3.10")
    comes = any(pattern(message).search(text) for texts in told.values() for text in texts)
    assert comes or in_source(message) or message.startswith(HOSTS)


def test_every_mistake_is_told_and_the_page_has_its_message(told: dict[str, list[str]]) -> None:
    patterns = [pattern(message) for message in quoted(PAGE.read_text())]
    missing = {name: texts for name, texts in told.items()
               if not any(known.search(text) for known in patterns for text in texts)}  # fmt: skip
    assert missing == {}


def test_a_message_that_nobody_says_is_seen() -> None:
    assert not in_source("alpha: expected decays between nought and one, got ...")
    assert in_source("this process was forked after its parent had computed on several threads")


def test_few_messages_are_taken_on_the_sources_word(told: dict[str, list[str]]) -> None:
    quotes = [message for message in quoted(PAGE.read_text()) if HAS_LAVA or message not in OF_LAVA]
    comes = [m for m in quotes if any(pattern(m).search(text) for texts in told.values() for text in texts)]
    assert len(quotes) - len(comes) <= 9
