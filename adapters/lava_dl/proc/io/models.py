"""How Source and Sink run on a CPU. float64 holds every int32 that Lava sends, so one memory serves both precisions."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from hetsyn_plugins.adapters.lava_dl.proc.io.process import Sink, Source


class AbstractPySource(PyLoihiProcessModel):
    """Sends one row a step."""

    out: Any = None
    dtype: type = np.int32

    def run_spk(self) -> None:
        data, row = self.proc_params["data"], self.time_step - 1
        self.out.send((data[row] if row < len(data) else np.zeros_like(data[0])).astype(self.dtype))


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySourceFixed(AbstractPySource):
    """int32 messages."""

    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PySourceFloat(AbstractPySource):
    """float64 messages."""

    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)
    dtype = float


class AbstractPySink(PyLoihiProcessModel):
    """Keeps one row a step."""

    inp: Any = None

    def run_spk(self) -> None:
        arrived, row = self.inp.recv(), self.time_step - 1
        if row < len(self.proc_params["data"]):
            self.proc_params["data"][row] = arrived


@implements(proc=Sink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySinkFixed(AbstractPySink):
    """int32 messages."""

    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)


@implements(proc=Sink, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PySinkFloat(AbstractPySink):
    """float64 messages."""

    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
