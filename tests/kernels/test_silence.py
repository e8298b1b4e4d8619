"""Gradients that skip silent sources: the dense ones' bits, bugs planted there, and when they are chosen."""

from __future__ import annotations

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from test_gpu import python

from hetsyn_plugins.benchmark import bench, skipping

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux only")

CONTRACT = """
import conftest, pytest
from hetsyn_plugins.conformance import backends, cases, checks
from hetsyn_plugins.kernels.gpu import sequence, silence
conftest.poison_empty(pytest.MonkeyPatch())
skipped = []

def words(s, g):
    skipped.append(silence.can_skip(s, g))
    return silence.activity_of(s).words if skipped[-1] else None

silence.words_if_it_pays = words
checks.EDGES = [(34, 2, 4, 9), (2, 3, 8, 17)]
(gpu,) = [b for b in backends.available()[0] if b.name == "gpu"]
print(*[r for _, _, r in checks.verify([gpu], ["sizes"]) if isinstance(r, cases.Mismatch)])
print(skipped.count(True), skipped.count(False))
"""


def test_layers_that_skip_keep_the_contract() -> None:
    """Recurrent ones too, whose sources are spikes; against the float64 reference."""
    assert python(CONTRACT, TRITON_INTERPRET="1").split("\n") == ["", "6 0", ""]


class Bug(NamedTuple):
    """In a file of the kernels `old` becomes `new`, and something must differ."""

    name: str
    module: str
    old: str
    new: str


BUGS = [
    Bug("none", "synapses", "", ""),
    Bug("a word off by one", "synapses", "word = tl.load(words_at + (t >> 5))", "word = tl.load(words_at)"),
    Bug("the first word for the last", "synapses", "tl.load(words_at + ((T - 1) >> 5))", "tl.load(words_at)"),
    Bug("a bit off by one", "synapses", "(word >> (t & 31)) & 1", "(word >> ((t + 1) & 31)) & 1"),
    Bug("the first row's words for all", "synapses", "(b * tl.cdiv(M, TILE_J) + jt)", "jt"),
    Bug("the first tile's words for all", "synapses", "tl.cdiv(M, TILE_J) + jt)", "tl.cdiv(M, TILE_J))"),
    Bug(
        "the first state ignored", "synapses", "sum_r += tl.load(initial +", "sum_r += (1 - SKIPS) * tl.load(initial +"
    ),
    Bug("what is infinite does not spread", "synapses", "sum_w += 0.0 * a", "sum_w += 0.0"),
    Bug("nor through the decay", "synapses", "sum_q += 0.0 * q", "sum_q += 0.0"),
    Bug("a tail tile never active", "silence", "mask=(j < M)", "mask=(j < M // 8 * 8)"),
    Bug("a tail of time never active", "silence", "(t < T)", "(t < T // 8 * 8)"),
    Bug("negative sources are silent", "silence", "x != 0.0", "x > 0.0"),
    Bug("small sources are silent", "silence", "x != 0.0", "tl.abs(x) > 0.5"),
    Bug("tiles of the second program taken for the first's", "silence", "tile = tl.program_id(1) * TILES +", "tile ="),
]

PLANTED = """
import importlib.util, pathlib, sys, tempfile
import conftest, planting, pytest, test_silence
from hetsyn_plugins.benchmark import peers, skipping
from hetsyn_plugins.kernels.gpu import silence, synapses
conftest.poison_empty(pytest.MonkeyPatch())
for index, bug in enumerate(test_silence.BUGS):
    # a file of its own: Triton reads a kernel's source again
    path = pathlib.Path(tempfile.mkdtemp()) / f"planted_{index}.py"
    times = 1 if bug.old else len(pathlib.Path(synapses.__file__).read_text()) + 1
    path.write_text(planting.changed_text(f"hetsyn_plugins.kernels.gpu.{bug.module}", bug.old, bug.new, times=times))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    both = {"silence": silence, "synapses": synapses, bug.module: changed}
    both["synapses"].PROGRAMS = 3  # two rows a program
    print(bug.name, "|", next(skipping.differences(**both), "the same"))

(cost, *_) = skipping.measure("small", peers.Shape(3, 1, 9, 4), runs=1)
print(min(cost[2:4]) > 0, cost.active < 0.5, cost.skips)
"""


def test_skipping_gives_the_dense_bits_and_planted_bugs_do_not() -> None:
    none, *lines, measured = python(PLANTED, TRITON_INTERPRET="1").splitlines()
    assert none == "none | the same" and measured == "True True False"
    for bug, line in zip(BUGS[1:], lines, strict=True):
        assert line.startswith((f"{bug.name} | gradient of ", f"{bug.name} | activity, ")), line


# ---- when it pays


class Card:
    """What stands in the place of an event on a card that has got there, or not; and of the capture of a graph."""

    def __init__(self) -> None:
        self.has_arrived = self.is_capturing = False
        self.queries = self.recorded = 0

    def record(self) -> None:
        self.recorded += 1

    def query(self) -> bool:
        assert not self.is_capturing
        self.queries += 1
        return self.has_arrived


class Looking:
    """Looks at sources (T, B, M) = (32, 2, 16), with `active` of their 128 steps of tiles."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.silence: Any = importlib.import_module("hetsyn_plugins.kernels.gpu.silence")
        self.card, self.active, self.packed = Card(), 0, 0
        monkeypatch.setattr(torch.cuda, "Event", lambda: self.card)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.card.is_capturing)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(self.silence, "activity_of", self.activity_of)
        monkeypatch.setattr(self.silence, "could_pay", lambda s, g: True)
        monkeypatch.setattr(self.silence, "_LOOKS", {})

    def activity_of(self, s: torch.Tensor) -> Any:
        self.packed += 1
        words = torch.zeros(2, 2, 1, dtype=torch.int32)
        return self.silence.Activity(words, torch.tensor([self.active, 0], dtype=torch.int32))

    def calls(self, count: int = 1, m: int = 16, n: int = 8, steps: int = 32) -> list[bool]:
        """Which of so many calls skip."""
        s, g = torch.zeros(steps, 2, m), torch.zeros(steps, 2, n)
        return [self.silence.words_if_it_pays(s, g) is not None for _ in range(count)]


def test_it_is_dense_until_a_count_has_come_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Looking(monkeypatch)
    looking.active = 32
    assert looking.calls(100) == [False] * 100
    assert (looking.packed, looking.card.recorded, looking.card.queries) == (1, 1, 99)
    looking.card.has_arrived = True
    assert looking.calls(3) == [True] * 3 and looking.card.queries == 100


def test_now_and_then_it_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Looking(monkeypatch)
    looking.card.has_arrived, looking.active = True, 33  # of 128: more than a quarter
    assert looking.calls(64) == [False] * 64 and looking.packed == 1
    looking.active = 32
    assert looking.calls(2) == [False, True]
    assert looking.calls(62) == [True] * 62
    looking.active = 128
    assert looking.calls(65) == [True] + [False] * 64
    assert looking.card.recorded == 4


def test_a_capture_takes_what_was_found_before_it_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Looking(monkeypatch)
    looking.card.is_capturing = True
    assert looking.calls(2) == [False, False] and looking.packed == 0 and not looking.silence._LOOKS
    looking.card.is_capturing = False
    looking.card.has_arrived, looking.active = True, 1
    assert looking.calls(2) == [False, True]
    looking.card.is_capturing, looking.active = True, 128
    assert looking.calls(200) == [True] * 200 and looking.card.recorded == 1


def like(*shape: int, at: int = 512, is_cuda: bool = True) -> Any:
    """What a tensor says of itself."""
    return SimpleNamespace(shape=shape, is_cuda=is_cuda, data_ptr=lambda: at)


def test_only_large_layers_whose_tiles_are_full_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes of the benchmark: with one row or few sources there is nothing to gain but a launch."""
    silence: Any = importlib.import_module("hetsyn_plugins.kernels.gpu.silence")
    monkeypatch.setattr(silence, "HAS_STAGES", True)
    shapes = {(250, 32, 700, 128): True, (100, 128, 784, 256): True, (250, 256, 700, 512): True}
    shapes |= {(250, 1, 700, 128): False, (250, 32, 128, 128): False, (100, 128, 40, 64): False}
    shapes |= {(250, 256, 700, 130): False, (250, 256, 700, 140): False, (250, 256, 700, 120): True}
    shapes[2, 1024, 2**20, 128] = False  # more tiles than a grid has place for
    for (steps, batch, m, n), pays in shapes.items():
        s, g = like(steps, batch, m), like(steps, batch, n)
        assert silence.could_pay(s, g) == pays, (steps, batch, m, n)
        assert not silence.could_pay(like(steps, batch, m, is_cuda=False), g)
        assert not silence.could_pay(s, like(steps, batch, n, at=516))
    monkeypatch.setattr(silence, "HAS_STAGES", False)
    assert not silence.could_pay(like(250, 32, 700), like(250, 32, 128))


def test_it_is_remembered_for_a_size_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Looking(monkeypatch)
    looking.card.has_arrived = True
    assert looking.calls(2) == [False, True] and looking.calls(steps=5) == [True]
    assert looking.calls(n=4) == looking.calls(m=24) == [False]
    looking.silence.forget()
    assert looking.calls(2) == [False, True]


def test_what_skips_starts_one_kernel_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without memory; the words are a 128th of the sources, and so are the counts."""
    silence, synapses = (importlib.import_module(f"hetsyn_plugins.kernels.gpu.{n}") for n in ("silence", "synapses"))
    started: list[Any] = []
    for module in (silence, synapses):
        monkeypatch.setattr(module, "launch", lambda kernel, grid, *x, **options: started.append((kernel, grid)))
    s, g, w = (torch.empty(*shape, device="meta") for shape in ((256, 256, 704), (256, 256, 512), (512, 704)))
    words, counts = silence.activity_of(s)
    assert 256 * words.nbytes == 256 * counts.nbytes == s.nbytes
    synapses.gradients(g, s, (w, w), (None, None), False, words)
    assert [kernel.fn.__name__ for kernel, _ in started] == ["activity", "transpose", "synapses_bwd", "sum_groups"]
    assert started[0][1] == (256 * 8, 3, 1) and started[2][1][:2] == (4, 88)


def test_the_benchmark_has_a_line_a_rate_and_ends_at_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    silence: Any = importlib.import_module("hetsyn_plugins.kernels.gpu.silence")
    monkeypatch.setattr(silence, "HAS_STAGES", True)
    costs = [skipping.Cost("A", 0.02, 0.2171, 0.195, 0.149, True), skipping.Cost("A", 0.5, 0.217, 0.4, 0.99, False)]
    found: list[str] = []
    monkeypatch.setattr(skipping, "differences", lambda *where: iter(found))
    monkeypatch.setattr(skipping, "measure", lambda label, shape, runs: iter(costs))
    assert list(skipping.report({"A": bench.SHAPES["A"]}, 3, "cpu")) == [
        "gradients A, 2% spikes: dense 0.217 ms, skipping 0.195 ms; 15% of tiles' steps active, chosen: skips",
        "gradients A, 50% spikes: dense 0.217 ms, skipping 0.400 ms; 99% of tiles' steps active, chosen: dense",
    ]
    found.append("gradient of weight, some case")
    with pytest.raises(AssertionError, match="silent sources: gradient of weight, some case is not as it should be"):
        list(skipping.report({"A": bench.SHAPES["A"]}, 3, "cpu"))
    assert list(skipping.report({}, 3, "cpu")) == []
