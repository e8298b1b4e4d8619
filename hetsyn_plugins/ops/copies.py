"""What of a layer is copied, pickled and replicated: its tensors, never the graph of its last call.

A tensor that a call left behind (a hidden state, a pruned weight) hangs on that call's graph, which torch refuses to
copy; a copy starts from its value.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor


class Copied:
    """Makes a torch module that can be copied and pickled at any time; stands before nn.Module among the bases."""

    def without_graph(self) -> dict[str, Any]:
        """The module's attributes, tensors cut out of their graph."""
        return {k: v.detach() if isinstance(v, Tensor) and v.grad_fn is not None else v for k, v in vars(self).items()}

    def __getstate__(self) -> dict[str, Any]:
        return self.without_graph()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # defined, or a parametrized module would be copied past __getstate__ (torch.nn.utils.parametrize puts its own)
        new: Any = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.without_graph(), memo))
        return new
