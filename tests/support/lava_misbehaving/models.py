import os
import signal
import time
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lava_misbehaving.process import Misbehaving


@implements(proc=Misbehaving, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMisbehaving(PyLoihiProcessModel):
    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        if proc_params["how"] == "refuse":
            raise KeyError("refused to be built")

    def run_spk(self) -> None:
        how = self.proc_params["how"]
        if self.time_step == 2:
            if how == "raise":
                raise ZeroDivisionError("in run_spk")
            if how == "hang":
                time.sleep(3600)
            if how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        self.out.send(self.inp.recv())
