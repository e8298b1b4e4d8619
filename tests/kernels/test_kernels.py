"""The compiled kernels as a machine meets them: threads, forks, widths of vectors, caches."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import planting
import pytest
import torch
from torch import Tensor

from hetsyn_plugins.conformance import cases
from hetsyn_plugins.core.fields import ARRAYS, HetSynState
from hetsyn_plugins.fixed_point.neuron import FixedParams
from hetsyn_plugins.kernels.cpu import buffers, layout, simd, threads
from hetsyn_plugins.kernels.cpu.layout import BatchLanes, NeuronLanes
from hetsyn_plugins.ops import lif

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = [BatchLanes, NeuronLanes]


@pytest.fixture(params=LAYOUTS, ids=lambda kind: kind.__name__)
def only(request: pytest.FixtureRequest) -> Any:
    token = layout.ONLY.set(request.param)
    yield request.param
    layout.ONLY.reset(token)


def run(sizes: tuple[int, int, int, int] = (40, 19, 21, 23), kind: str = "everything") -> dict[str, Tensor]:
    """Everything that a forward and a backward pass give, for one drawn layer."""
    steps, batch, n, m = sizes
    params = cases.KINDS[kind](np.random.default_rng(3), n, m).astype(np.float32)
    arrays = {name: getattr(params, name) for name in ARRAYS}
    leaves = {k: None if a is None else torch.tensor(a, requires_grad=True) for k, a in arrays.items()}
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(steps, batch, m, generator=generator).requires_grad_()
    spikes, v, state = lif.hetsyn_lif(x, **leaves, backend="cpu")
    (spikes.sum() + v.square().sum()).backward()
    outputs = {"spikes": spikes, "v": v, "current": state.current, "inputs": x.grad}
    return {**outputs, **{name: t.grad for name, t in leaves.items() if t is not None}}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_any_number_of_threads_gives_the_same_bits(only: Any) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(run())
            assert torch.get_num_threads() == count, "the setting is the user's"
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        same(results[0], result)


def test_python_threads_do_as_well_where_torch_has_no_gnu_openmp(only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    same(before, run())


def test_an_error_in_a_piece_of_work_is_not_lost() -> None:
    def broken(first: int, last: int) -> None:
        raise KeyError(first)

    with pytest.raises(KeyError):
        threads.parallel(broken, 100)


def test_calls_from_several_python_threads_do_not_meet(only: Any) -> None:
    """Three threads, layers of two sizes, many times: every result as alone. (A thread starts without ONLY.)"""
    sizes = [(30, 18, 17, 9), (20, 5, 33, 20)]
    alone = [run(s) for s in sizes]
    errors: list[BaseException] = []

    def repeat(index: int) -> None:
        layout.ONLY.set(only)
        try:
            for _ in range(25):
                same(alone[index], run(sizes[index]))
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=repeat, args=(i,)) for i in (0, 1, 0)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not errors and not any(w.is_alive() for w in workers)


def python(code: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, with the checkout's adapters in their place."""
    places = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "kernels")]
    start = f"import sys; sys.path[:0] = {places}\n"
    command = [sys.executable, "-W", "ignore", "-c", start + code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout)


FORK = """
import os, torch, test_kernels as t
torch.set_num_threads(2)
before = t.run()
child = os.fork()
if child == 0:
    try:
        t.run()
        os._exit(3)
    except RuntimeError as error:
        good = "spawn" in str(error)
    torch.set_num_threads(1)
    t.same(before, t.run())
    os._exit(0 if good else 4)
_, status = os.waitpid(child, 0)
t.same(before, t.run())  # the parent goes on
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_says_what_to_do_and_then_works() -> None:
    done = python(FORK)
    assert done.stdout.strip() == "child 0", done.stderr


# 2 and 4 lanes, beside the 8 and 16 of AVX-512, or the 4 and 8 of AVX2, that all other tests have: in float64 alone,
# and in AVX2 without the kernels of delays and masks, since compiling takes most of the time
@pytest.mark.parametrize(
    ("features", "width", "more"), [("", 16, True), ("+avx,+avx2,+fma", 32, False)], ids=["plain", "AVX2"]
)
def test_narrower_vectors_pass_the_same_checks(features: str, width: int, more: bool) -> None:
    if width >= simd.VECTOR_BYTES:
        pytest.skip(f"vectors here are {simd.VECTOR_BYTES} bytes wide: this is no narrower")
    code = f"""
import conftest, dataclasses
import numpy as np
from hetsyn_plugins.conformance import backends, cases, checks
from hetsyn_plugins.kernels.cpu import simd
cpu = [b for b in backends.available()[0] if b.name.startswith("cpu-")]
cpu = [dataclasses.replace(b, dtypes=(np.float64,), delays={more}, masks={more}) for b in cpu]
results = list(checks.verify(cpu, ["sizes", "state-gradients"]))
bad = [f"{{b}} {{c}}: {{r}}" for b, c, r in results if isinstance(r, cases.Mismatch)]
print(simd.VECTOR_BYTES, len(results), *bad)
"""
    # one thread: with more, on a busy machine, they mostly wait for each other; OPT 1 compiles three times as fast
    target = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_OPT": "1", "OMP_NUM_THREADS": "1"}
    done = python(code, timeout=240, **target)
    assert done.stdout.strip() == f"{width} 6", done.stdout + done.stderr


def test_the_lanes_are_what_wastes_least() -> None:
    def chosen(batch: int, neurons: int) -> type:
        return type(layout.layout(torch.zeros(2, batch, 5), neurons))

    lanes = simd.VECTOR_BYTES // 4
    assert chosen(1, 8 * lanes) is chosen(2, 8 * lanes) is NeuronLanes
    assert chosen(4 * lanes, 1) is chosen(2 * lanes, 8 * lanes) is BatchLanes


def test_exponential_is_exact_to_two_ulp_and_never_overflows() -> None:
    from hetsyn_plugins.kernels.cpu.simd import exponential, lanes, load, store
    from hetsyn_plugins.kernels.cpu.soma import kernel

    @kernel
    def run_it(x: Any, out: Any) -> None:
        for i in range(0, len(x), lanes(x)):
            store(out, i, exponential(load(x, i)))

    for dtype, lowest in ((np.float32, -87.0), (np.float64, -708.0)):
        x = -np.abs(np.random.default_rng(0).normal(size=1 << 14) * 40).clip(0, -lowest).astype(dtype)
        out = np.empty_like(x)
        run_it(x, out)
        exact = np.exp(x.astype(np.longdouble))
        assert np.max(np.abs(out - exact) / exact) < 2 * np.finfo(dtype).eps
        x[:] = -np.inf
        run_it(x, out)
        assert (out >= 0).all() and (out < 1e-37).all()


CACHE = """
import logging, warnings
warnings.simplefilter("error")
import torch
from hetsyn_plugins.ops import lif
from hetsyn_plugins.ops import dispatch
lif.hetsyn_lif(torch.ones(3, 2, 4), torch.ones(5, 4), 0.9, reset_decay=0.9)
print(dispatch.choose_backend(torch.ones(3, 2, 4), torch.ones(5, 4)).backend)
"""


def cached_run(folder: Path) -> str:
    """What a process says that computes with this cache of compiled code."""
    done = python(CACHE, NUMBA_CACHE_DIR=str(folder), NUMBA_OPT="1", OMP_NUM_THREADS="1")  # compiles faster
    assert done.stdout.strip() == "cpu", done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def cold_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache that one process has filled, and what that process said."""
    folder = tmp_path_factory.mktemp("numba")
    return folder, cached_run(folder)


def test_a_cold_start_is_announced_and_a_warm_one_is_not(cold_start: tuple[Path, str]) -> None:
    folder, said = cold_start
    assert "compiling the CPU kernels, once" in said and "compiling" not in cached_run(folder)


def test_a_cache_that_does_not_count_is_announced_too(cold_start: tuple[Path, str], tmp_path: Path) -> None:
    """Damaged or after an upgrade, all compiles anew, for seconds: as silent as it was once, it looks like a hang."""
    shutil.copytree(cold_start[0], tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*.compiled"):
        file.write_bytes(file.read_bytes()[:-1])
    assert "compiling the CPU kernels, once" in cached_run(tmp_path)


def test_a_state_of_one_expanded_number_is_used(only: Any) -> None:
    """Zeros that were never written out cost nothing; another number must not be taken for them."""
    x, weight = torch.zeros(3, 2, 4), torch.ones(5, 4)
    for first in (0.0, 0.3):
        current = torch.tensor(first).expand(2, 5, 4)
        v, end = lif.hetsyn_li(x, weight, 0.5, state=HetSynState(current, v=torch.zeros(2, 5)), backend="cpu")
        # dyadic decays: exact
        assert torch.equal(v[0], torch.full((2, 5), 4 * 0.5 * torch.tensor(first).item()))
        assert torch.equal(end.current, current / 8)


def test_memory_is_used_again_only_when_the_last_array_on_it_is_gone() -> None:
    """A view of a view, or a tensor made of one, keeps its memory; a block that nobody holds serves the next call."""
    dtype, count = np.dtype(np.float32), buffers.LARGE
    first = buffers.empty(count, dtype)
    first[:] = 1
    where = first.ctypes.data
    kept = torch.from_numpy(first.reshape(64, -1)[3:]).view(-1)[5:]
    del first
    second = buffers.empty(count, dtype)
    second[:] = 2
    assert second.ctypes.data != where and (kept == 1).all()
    del kept
    assert buffers.empty(count, dtype).ctypes.data == where
    assert buffers.empty(3, dtype).size == 3  # small ones are NumPy's


def test_the_shelf_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "KEPT", 4 * buffers.LARGE)
    arrays = [buffers.empty(buffers.LARGE + 4096 * i, np.dtype(np.uint8)) for i in range(8)]
    del arrays
    assert 0 < sum(map(len, buffers._shelf)) <= 4 * buffers.LARGE


def test_results_stay_as_they_are_while_others_are_computed(only: Any) -> None:
    """What a call returned must not be memory that the next call writes to."""
    x, weight = torch.rand(64, 65, 64), torch.rand(70, 64)
    v, end = lif.hetsyn_li(x, weight, 0.5, backend="cpu")
    copies = v.clone(), end.current.clone()
    for _ in range(3):
        lif.hetsyn_li(torch.rand_like(x), weight, 0.9, backend="cpu")
    assert torch.equal(v, copies[0]) and torch.equal(end.current, copies[1])


LEAVING = """
import atexit, torch
from hetsyn_plugins.ops import lif
from hetsyn_plugins.ops import dispatch
torch.set_num_threads(2)
def last():
    out = lif.hetsyn_li(torch.ones(3, 40, 4), torch.ones(50, 4), 0.5)[0]
    print(float(out[0, 0, 0]))
atexit.register(last)
"""


def test_an_interpreter_on_its_way_out_still_computes() -> None:
    """It starts no more threads: what runs in atexit, or in a thread that outlives main, must do without."""
    done = python(LEAVING)
    assert done.stdout.strip() == "4.0", done.stderr


def test_a_machine_without_a_working_numba_is_told_once_and_computes(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('numba is broken here')")
    code = f"sys.path.insert(0, {str(tmp_path)!r})\n" + CACHE.replace('warnings.simplefilter("error")', "")
    done = python(code.replace("lif.hetsyn_lif", "warnings.simplefilter('always'); lif.hetsyn_lif"))
    assert done.stdout.strip() == "eager", done.stderr
    assert done.stderr.count("numba is broken here; backend='eager' is used instead") == 1


def test_a_planted_kernel_neither_finds_nor_leaves_compiled_code() -> None:
    """numba keeps compiled code by file and line, which a changed kernel shares with the real one."""
    name = "hetsyn_plugins.kernels.cpu.fixed_point"
    real: Any = importlib.import_module(name)
    params = FixedParams([[-5]], [[2048]], spiking=False, form="synapse", fraction=0)
    x = np.eye(4, 1, dtype=np.int64).reshape(4, 1, 1)
    assert real.run(params, x).v.ravel().tolist() == [-5, -2, -1, 0]
    folder = Path(str(real.currents_fwd.stats.cache_path))
    files = sorted(folder.glob("fixed_point.*"))
    assert files
    (changed,) = planting.changed(name, "trunc(mul(c0, u0))", "trunc(sub(mul(c0, u0), splat(0.5)))").values()
    assert changed.run(params, x).v.ravel().tolist() == [-5, -3, -2, -1]
    assert sorted(folder.glob("fixed_point.*")) == files
    assert changed.currents_fwd is not real.currents_fwd and changed.gather is real.gather  # out of the change's reach
