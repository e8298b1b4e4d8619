"""HetSyn: one layer of HetSynLIF neurons as one Lava process, its synapses inside: one message in, one out a step."""

from __future__ import annotations

from typing import Any

from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var

from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.fixed_point.network import FixedLayer
from hetsyn_plugins.fixed_point.neuron import FixedParams


class HetSyn(AbstractProcess):
    """A layer with its feed-forward and recurrent synapses.

    params          FixedParams: `fixed_pt` is `fixed_point.run` bit for bit, `floating_pt` is `reference.run` with the
                    same numbers; or HetSynParams: `floating_pt` only
    always_on       the last of the M lines is 1 at every step and comes from nowhere
    delay           (N,) steps by which the spikes leave later, or None
    reset_interval  every so many steps the states and what is still on its way are set to zero; None: never
    reset_offset    the step, counted from 1, at which the first input of a sample arrives here (modulo the interval)
    allow_overflow  let a state wrap or clip, as a chip does, instead of raising FixedPointOverflow

    inp  (M,), or (M - 1,) with the always-on line: spikes, counts or graded spikes
    out  (N,) spikes; of a readout v, as a graded spike, in state units (float units in `floating_pt`)
    v    (N,) a Var for Lava's Monitor: v of the last step

    What the input of step t leads to leaves at step t + 1, as with netx's Dense and LIF. A reset falls between the two,
    so with one more step of `reset_offset` for each layer samples follow each other without a gap or a leak.
    """

    _runtime: Any = None  # Lava's destructor looks for it, also where the arguments were refused

    def __init__(
        self,
        params: FixedParams | HetSynParams,
        *,
        always_on: bool = False,
        delay: Any = None,
        reset_interval: int | None = None,
        reset_offset: int = 1,
        allow_overflow: bool = False,
        name: str | None = None,
    ) -> None:
        if not isinstance(params, (FixedParams, HetSynParams)):
            raise ValueError(f"params: expected FixedParams or HetSynParams, got {type(params).__name__}")
        if reset_interval is not None and reset_interval < 1:
            raise ValueError(f"reset_interval: expected at least 1 step or None, got {reset_interval}")
        fields: Any = params  # a FixedLayer checks the delay of either kind
        layer = FixedLayer(name or "HetSyn", fields, always_on, delay)
        super().__init__(
            layer=layer,
            reset_interval=reset_interval,
            reset_offset=reset_offset,
            allow_overflow=allow_overflow,
            name=name,
        )
        lines, neurons = layer.widths
        self.inp = InPort(shape=(lines,))
        self.out = OutPort(shape=(neurons,))
        self.v = Var(shape=(neurons,), init=0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what leaves: (N,)."""
        return tuple(self.out.shape)

    @property
    def output_message_bits(self) -> int:
        """What the layer behind is told, as netx's blocks do: 0 is spikes, else the bits of a graded spike."""
        params = self.proc_params["layer"].params
        return 0 if params.spiking else getattr(params, "state_bits", 32)
