"""Makes `network.run(...)` possible: Lava looks for a model of this very class; the blocks are the process's."""

from __future__ import annotations

from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel
from lava.magma.core.decorator import implements, tag
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from hetsyn_plugins.adapters.lava_dl.proc.network.process import Network


@implements(proc=Network, protocol=LoihiProtocol)
@tag("floating_pt")  # besides "fixed_pt", which it inherits; stock layers have models for that alone
class PyNetworkModel(AbstractPyBlockModel):
    """One for both precisions: what it holds differs, not how."""
