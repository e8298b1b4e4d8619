"""Source and Sink: inputs and outputs of a run at memory speed; `lava.proc.io` takes a message for every number."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from numpy.typing import NDArray


class Source(AbstractProcess):
    """Sends row t - 1 of `data` (steps, M) at step t = 1, 2, ...; zeros once the rows are over.

    The rows reach Lava's worker with the fork, not through a Var.
    """

    _runtime: Any = None  # Lava's destructor looks for it, also where the rows were refused

    def __init__(self, data: NDArray[Any]) -> None:
        if data.ndim != 2:
            raise ValueError(f"data: expected shape (steps, M), got {data.shape}")
        super().__init__(data=data)
        self.out = OutPort(shape=data.shape[1:])


class Sink(AbstractProcess):
    """Keeps what arrives at steps 1 to `steps` in `data` (steps, N), float64, which the caller reads after the run.

    `data` is memory that Lava's worker shares: `Var.get` would take 22 microseconds a number.
    """

    def __init__(self, lines: int, steps: int) -> None:
        memory = mmap.mmap(-1, max(1, 8 * steps * lines))
        self.data: NDArray[np.float64] = np.frombuffer(memory, np.float64, steps * lines).reshape(steps, lines)
        super().__init__(data=self.data)
        self.inp = InPort(shape=(lines,))
