"""Stock readers of NIR run a file: snnTorch's and Norse's importers, nirtorch's interpreter with Norse's neurons."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import nirtorch
import numpy as np
import torch

STEP = 1e-4  # seconds: what snnTorch takes files for


def snntorch(graph: Any) -> Any:
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        return import_from_nir(graph)


def norse(graph: Any) -> Any:
    import norse.torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nirtorch.load is deprecated
        return norse.torch.from_nir(graph, dt=STEP, ignore_warnings=True)


class Driven(torch.nn.Module):
    """A neuron of Norse's behind the r of a node, which Norse passes over."""

    def __init__(self, r: torch.Tensor, cell: torch.nn.Module) -> None:
        super().__init__()
        self.r, self.cell = r, cell

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        return self.cell(self.r * x, state)


def interpreter(graph: Any) -> Any:
    """Of the neurons it knows none: they are Norse's boxes. Its own Affine leaves the bias random."""
    from norse.torch.module import leaky_integrator_box as li
    from norse.torch.module import lif_box as lif

    def number(array: Any) -> torch.Tensor:
        return torch.tensor(np.asarray(array)).float()

    def affine(node: Any) -> Any:
        linear = torch.nn.Linear(node.weight.shape[1], node.weight.shape[0])
        linear.weight.data, linear.bias.data = number(node.weight), number(node.bias)
        return linear

    def leaky(node: Any) -> Any:
        p = li.LIBoxParameters(tau_mem_inv=1 / number(node.tau), v_leak=number(node.v_leak))
        return Driven(number(node.r), li.LIBoxCell(p, dt=STEP))

    def fire(node: Any) -> Any:
        options = {"v_th": number(node.v_threshold), "v_leak": number(node.v_leak)}
        return lif.LIFBoxCell(lif.LIFBoxParameters(tau_mem_inv=1 / number(node.tau), **options), dt=STEP)

    return nirtorch.nir_to_torch(graph, {nir.LI: leaky, nir.LIF: fire, nir.Affine: affine})


READERS: dict[str, Callable[[Any], Any]] = {"snntorch": snntorch, "norse": norse, "nirtorch": interpreter}


def run(path: Path, reader: str, inputs: Any) -> Any:
    """What a file gives in a stock reader, (T, B, N), for inputs (T, B, M)."""
    net, state, out = READERS[reader](nir.read(path)), None, []
    with torch.no_grad():
        for x in torch.tensor(np.asarray(inputs), dtype=torch.float32):
            y, state = net(x, state)
            out.append(y.numpy().copy())
    return np.array(out)
