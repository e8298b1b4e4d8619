"""How HetSyn runs on a CPU: in integers like `fixed_point.run`, in float64 like `reference.run`, a step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from numpy.typing import NDArray

from hetsyn_plugins.adapters.lava_dl.proc.hetsyn.process import HetSyn
from hetsyn_plugins.core import reference
from hetsyn_plugins.fixed_point import neuron
from hetsyn_plugins.fixed_point.neuron import FixedParams, Integers


class AbstractPyHetSyn(PyLoihiProcessModel):
    """Sends, resets, receives, computes: one step. Subclasses say what the state is and how it advances."""

    inp: Any = None
    out: Any = None
    v: Any = None
    message: type = np.int32

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.layer = proc_params["layer"]
        self.interval = proc_params["reset_interval"]
        self.indices = np.arange(self.layer.widths[1])
        self.delay = np.zeros_like(self.indices) if self.layer.delay is None else self.layer.delay
        # what is on its way: row t % (number of rows) leaves at step t
        self.leaving: NDArray[Any] = np.zeros((1 + int(self.delay.max()), len(self.indices)), self.message)
        self.zero()

    def zero(self) -> None:
        """Set the state to what it is before the first step."""
        raise NotImplementedError

    def advance(self, x: Any) -> tuple[Any, Any]:
        """One step of the neurons from lines x (M,): spikes (N,), or None for a readout, and v (N,)."""
        raise NotImplementedError

    def run_spk(self) -> None:
        t, rows = self.time_step, len(self.leaving)
        self.out.send(self.leaving[t % rows])
        if self.interval is not None and (t - self.proc_params["reset_offset"]) % self.interval == 0:
            self.zero()
            self.leaving[:] = 0
        x = self.inp.recv()
        spikes, v = self.advance(np.append(x, 1) if self.layer.always_on else x)
        self.v[:] = v
        self.leaving[(t + 1 + self.delay) % rows, self.indices] = v if spikes is None else spikes


@implements(proc=HetSyn, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PyHetSynFixed(AbstractPyHetSyn):
    """`fixed_point.run`, bit for bit."""

    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    v: NDArray[np.int32] = LavaPyType(np.ndarray, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        p = proc_params["layer"].params
        if not isinstance(p, FixedParams):
            raise ValueError(f"params: expected FixedParams for fixed_pt, got {type(p).__name__}; floating_pt takes it")
        self.core = neuron.Neurons(p, proc_params["layer"].name, proc_params["allow_overflow"])
        super().__init__(proc_params)

    def zero(self) -> None:
        self.state = neuron.zero_state(self.layer.params, batch=1)

    def advance(self, x: Integers) -> tuple[Any, Any]:
        self.state, v = self.core.advance(self.state, x[None].astype(np.int64), self.time_step)
        return (None if self.state.spikes is None else self.state.spikes[0]), v[0]


@implements(proc=HetSyn, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PyHetSynFloat(AbstractPyHetSyn):
    """`reference.run`."""

    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    v: NDArray[np.float64] = LavaPyType(np.ndarray, float)
    message = float

    def __init__(self, proc_params: Any) -> None:
        p = proc_params["layer"].params
        p = p.to_params() if isinstance(p, FixedParams) else p
        self.params = p.astype(np.float64).expanded()
        super().__init__(proc_params)

    def zero(self) -> None:
        self.state = reference.zero_state(self.params, batch=1)

    def advance(self, x: NDArray[np.float64]) -> tuple[Any, Any]:
        self.state = reference.advance(self.params, x[None], self.state)
        spikes = None if self.state.spikes is None else self.state.spikes[0]
        return spikes, self.state.v[0]
