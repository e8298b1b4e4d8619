"""What goes in and out of a kernel has the fields of the one table, and every backend fulfils the interface."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from hetsyn_plugins.core.fields import FIELDS, HetSynState
from hetsyn_plugins.kernels.interface import Kernel, LayerTensors, NeedsGrad
from hetsyn_plugins.ops import dispatch

OF_CODEBOOK = ("decay_index", "recurrent_decay_index", "codebook")
METHODS = [name for name in vars(Kernel) if not name.startswith("_")]


def test_layers_have_the_fields_of_the_table_in_its_order() -> None:
    assert LayerTensors._fields == (*FIELDS, *OF_CODEBOOK)
    optional = {
        name for name, field in FIELDS.items() if not field.required or field.reads_spikes or name == "threshold"
    }
    assert set(LayerTensors._field_defaults) == optional | {*OF_CODEBOOK}  # a readout's threshold is None
    assert NeedsGrad._fields == ("inputs", *FIELDS, *OF_CODEBOOK, *HetSynState._fields)


@pytest.mark.parametrize("backend", ["eager", "cpu", "gpu"])
@pytest.mark.parametrize("method", METHODS)
def test_every_backend_fulfils_the_interface(backend: str, method: str) -> None:
    if backend == "gpu":
        pytest.importorskip("triton", reason="Triton is for Linux only")
    module: Any = import_module(f"hetsyn_plugins.kernels.{dispatch.MODULES[backend]}")
    expected = inspect.signature(getattr(Kernel, method))
    parameters = list(expected.parameters.values())[1:]  # a module has no self
    assert inspect.signature(getattr(module, method)) == expected.replace(parameters=parameters)


def test_the_interface_is_forward_spikes_and_backward() -> None:
    assert METHODS == ["forward", "spikes_of", "backward"]
