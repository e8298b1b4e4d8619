"""Hours of use in little: networks of many shapes made, trained, stepped, copied, saved and dropped, and what is left.

Nothing may stay: tensors, modules, threads and open files are counted, and the memory must be flat. `tools/soak` runs
it for half an hour, `tests/test_soak.py` for seconds.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hetsyn_plugins.exchange import checkpoint, frameworks
from hetsyn_plugins.exchange.conversion import convert

WARM = 0.3  # share of the time after which nothing may grow any more
SAMPLES = 40
KEPT = 20  # states and networks that are held for a while, as users hold them
BOUND = (
    4.0  # MB in 1,000 networks that the memory may grow by: a leaked network of these is some 20 kB, five times that
)
FIRST = 5  # objects that may be new in all: what some rare use makes once and keeps
RARE = 50  # networks: what stays of fewer than one in so many comes and goes with the garbage collector
NOISE = 16.0  # MB in all: what an allocator takes and gives back by whole pieces


class Sample(NamedTuple):
    """What there is after so many networks: MB, and how many of each; objects beside those from before the start."""

    networks: int
    seconds: float
    mb: float
    tensors: int
    modules: int
    threads: int
    files: int


class Work:
    """Makes one network after another, drawn from a seed, and keeps a few of what came of them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng, self.folder = Random(seed), folder
        self.kept: deque[Any] = deque(maxlen=KEPT)
        self.networks = 0
        present = [name for name in ("snntorch", "norse") if frameworks.is_installed(name)]
        self.makers: list[Callable[[int, int, int], nn.Module]] = [getattr(self, f"_{name}") for name in present]
        self.uses = (self.sequence, self.steps, self.copies, self.files, self.conversion, self.mistakes, self.images)

    def one(self) -> None:
        """One network of another shape, used in one of the ways, and dropped, or kept for a while."""
        m, n, outputs = (self.rng.randint(2, 48) for _ in range(3))
        net = self.rng.choice(self.makers)(m, n, outputs)
        inputs = (torch.rand(self.rng.randint(3, 30), self.rng.randint(1, 6), m) < 0.2).float()
        self.rng.choice(self.uses)(net, inputs)
        self.networks += 1

    def _snntorch(self, m: int, n: int, outputs: int) -> nn.Module:
        snn = frameworks.adapter("snntorch")
        layer = self.rng.choice((snn.HetSynLeaky, snn.RHetSynLeaky))
        kinds: list[dict[str, Any]] = [
            {},
            {"delay": 4 * torch.rand(n, m), "max_delay": 4, "learn_delay": True},
            {"delay": torch.randint(4, (n, m)), "max_delay": 4},
            {"mask": torch.rand(n, m) < 0.3},
            {"share": "codebook", "clusters": 2},
        ]
        hidden = layer(m, n, init_hidden=True, learn_beta=True, **self.rng.choice(kinds))
        readout = snn.HetSynLeaky(n, outputs, init_hidden=True, spiking=False, reset_mechanism="none")
        return nn.Sequential(hidden, nn.Dropout(0.1), readout)

    def _norse(self, m: int, n: int, outputs: int) -> nn.Module:
        norse = frameworks.adapter("norse")
        hidden = self.rng.choice((norse.HetSynLIF, norse.HetSynLIFRecurrent))(m, n)
        host = __import__("norse").torch
        return host.SequentialState(hidden, norse.HetSynLI(n, outputs))  # type: ignore[no-any-return]

    # ---- uses

    def sequence(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """Some steps of an optimiser over sequences."""
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(3):
            self._reset(net)
            out = self._out(net(inputs))
            optimiser.zero_grad()
            out.square().mean().backward()
            optimiser.step()
        self.kept.append(out)  # with the graph that it came by

    def steps(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """A loop of single steps, whose graph is dropped, or walked backwards, or kept."""
        self._reset(net)
        out = [self._out(net(x[None] if "norse" in type(net).__module__ else x)) for x in inputs]
        fate = self.rng.randrange(3)
        if fate == 0:
            torch.stack(out).sum().backward()
        elif fate == 1:
            self.kept.append(out)

    def copies(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """Copies and pickles of a network in use, which live on their own."""
        self._reset(net)
        with torch.no_grad():
            net(inputs)
        twin = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        self._reset(twin)
        self._out(twin(inputs)).sum().backward()
        self.kept.append(twin)

    def files(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """To a file and back."""
        path = self.folder / f"{self.rng.randrange(3)}.safetensors"
        checkpoint.save(net, path)
        checkpoint.load(path)
        checkpoint.load(path, to=self.rng.choice(("snntorch", "norse")), dt=1e-3)

    def conversion(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """To every framework and to plain data, which the reference runs."""
        for to in ("norse", "snntorch", "norse"):
            net = convert(net, to=to, dt=1e-3)
        convert(net, to="reference").run(inputs[:3].numpy().astype(np.float64))

    def mistakes(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """Errors in the middle: inputs that do not fit, a graph walked twice, a file that is none."""
        (self.folder / "none.safetensors").write_bytes(b"no such file")
        out = self._out(net(inputs))
        out.sum().backward()
        for wrong in (
            lambda: net(inputs[..., :-1]),
            lambda: net(inputs.to(torch.complex64)),
            lambda: out.sum().backward(),
            lambda: checkpoint.load(self.folder / "none.safetensors"),
        ):
            try:
                wrong()
            except (ValueError, TypeError, RuntimeError):
                continue
            raise AssertionError("a mistake was not refused")

    def images(self, net: nn.Module, inputs: torch.Tensor) -> None:
        """A convolution over the same inputs, as a sequence, in steps of a copy, and the dense layer that it is."""
        snn = frameworks.adapter("snntorch")
        conv = snn.HetSynConv1d(1, self.rng.randint(1, 4), 2, padding=1, init_hidden=True)
        x = inputs.unsqueeze(2)
        self._out(conv(x)).sum().backward()
        twin = copy.deepcopy(conv)
        self._reset(twin)
        self.kept.append([self._out(twin(step)) for step in x[:3]])
        conv.to_dense(x.shape[3:])

    def _reset(self, net: nn.Module) -> None:
        for module in net.modules():
            if hasattr(module, "reset_mem"):
                module.reset_mem()

    def _out(self, out: Any) -> torch.Tensor:
        found: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return found


def soak(seconds: float, seed: int = 0, leak: Callable[[Work], Any] | None = None) -> list[Sample]:
    """Work for so long; samples at even distances, the first after everything was used once.

    leak   is called after each network: a bug that the judge must see
    """
    torch.manual_seed(seed)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder, quiet_process():
        work = Work(seed, Path(folder))
        for _ in range(len(work.uses) * 8):
            work.one()
        start = time.monotonic()
        samples.append(sample(work, 0.0))
        while len(samples) < SAMPLES:
            while work.networks == samples[-1].networks or time.monotonic() - start < seconds * len(samples) / SAMPLES:
                work.one()
                if leak is not None:
                    leak(work)
            samples.append(sample(work, time.monotonic() - start))
    return samples


@contextmanager
def quiet_process() -> Iterator[None]:
    """Python's collector passes over what is there now, which takes it most of a second; one thread computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)


def sample(work: Work, seconds: float) -> Sample:
    """What there is now, but for what the work itself keeps for a while."""
    kept, work.kept = work.kept, deque(maxlen=KEPT)
    kept.clear()
    gc.collect()
    found = [type(thing) for thing in gc.get_objects()]
    tensors, modules = (sum(issubclass(kind, base) for kind in found) for base in (torch.Tensor, nn.Module))
    status = Path("/proc/self/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    assert resident
    threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    return Sample(work.networks, seconds, int(resident[1]) / 1024, tensors, modules, threads, files)


# ---- the judge ---------------------------------------------------------------------------------------------------


def after_warm_up(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those from which on nothing may grow."""
    return samples[int(WARM * len(samples)) :]


def slope(samples: Sequence[Sample]) -> float:
    """MB in 1,000 networks after the warm-up, by least squares."""
    late = after_warm_up(samples)
    return 1e3 * float(np.polyfit([s.networks for s in late], [s.mb for s in late], 1)[0])


def faults(samples: Sequence[Sample]) -> list[str]:
    """What grew."""
    late = after_warm_up(samples)
    made = late[-1].networks - late[0].networks
    found = []
    grown = slope(samples) * made / 1e3
    if slope(samples) > BOUND and grown > NOISE:
        found.append(f"memory: {slope(samples):.2f} MB in 1,000 networks, {grown:.0f} MB in all")
    for name in ("tensors", "modules", "threads", "files"):
        first, last = getattr(late[0], name), min(getattr(s, name) for s in late[-3:])
        if last > first + max(FIRST, made // RARE):
            found.append(f"{name}: {last - first} more after {made:,} networks")
    return found


def table(samples: Sequence[Sample]) -> str:
    """Start, after the warm-up, end."""
    rows = {"start": samples[0], "after warm-up": after_warm_up(samples)[0], "end": samples[-1]}
    heads = ("networks", "minutes", "RSS MB", "tensors", "modules", "threads", "open files")
    lines = [f"{'':14}" + "".join(f"{head:>12}" for head in heads)]
    for name, s in rows.items():
        cells = (f"{s.networks:,}", f"{s.seconds / 60:.1f}", f"{s.mb:.1f}", s.tensors, s.modules, s.threads, s.files)
        lines.append(f"{name:14}" + "".join(f"{cell:>12}" for cell in cells))
    flat = "; ".join(faults(samples)) or "flat"
    what = f"{slope(samples):+.2f} MB in 1,000 networks after the warm-up"
    return "\n".join([*lines, f"{what} (bound {BOUND:g}, and {NOISE:g} MB in all): {flat}"])
