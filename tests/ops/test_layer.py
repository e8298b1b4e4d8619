"""What the layers of both adapters share: parameters looked at when they change, and never stale values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("snntorch")
pytest.importorskip("norse")

from hetsyn_plugins.adapters.norse import HetSynLIF, HetSynLIFCell
from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky
from hetsyn_plugins.ops import layer as shared

T, B, M, N = 6, 3, 5, 4


def weight_of(layer: Any) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = layer.stored("weight")
    return weight


LAYERS: list[Callable[[], Any]] = [lambda: HetSynLeaky(M, N), lambda: RHetSynLeaky(M, N), lambda: HetSynLIF(M, N)]
X = (torch.rand(T, B, M, generator=torch.Generator().manual_seed(1)) < 0.5).float()


@pytest.mark.parametrize("build", LAYERS)
def test_parameters_are_looked_at_when_they_changed(build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = shared.check_ranges
    monkeypatch.setattr(shared, "check_ranges", lambda *arguments: looks.append(1) or real(*arguments))
    layer = build()
    for _ in range(3):
        layer(X)
    assert len(looks) == 1
    optimiser = torch.optim.SGD(layer.parameters(), 1e-3)
    layer(X)[0].sum().backward()
    optimiser.step()
    for _ in range(2):
        layer(X)
    assert len(looks) == 2


@pytest.mark.parametrize("build", LAYERS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_went_wrong_is_named_once_it_is_used(build: Callable[[], Any], bad: float) -> None:
    layer = build()
    layer(X)
    with torch.no_grad():
        weight_of(layer)[1, 2] = bad
    for _ in range(2):  # and again: what was refused is not taken as looked at
        with pytest.raises(ValueError, match=r"weights?: expected finite values"):
            layer(X)


def test_a_layer_without_checks_looks_at_nothing() -> None:
    layer = HetSynLeaky(M, N, check=False)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    assert layer(X)[-1][:, :, 0].isnan().any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sequence", [False, True])
def test_what_goes_around_the_counts_is_used_all_the_same(training: bool, sequence: bool) -> None:
    """Torch does not count what is written through `.data`; no value that a call uses may be of an earlier one."""
    layer, other = HetSynLeaky(M, N, weight=torch.ones(N, M)), HetSynLeaky(M, N, 0.3, 0.4, 0.7, weight=torch.ones(N, M))
    x = X if sequence else X[0]
    with torch.set_grad_enabled(training):
        layer(x)
        layer.alpha.data.fill_(0.3)
        layer.beta.data.fill_(0.4)
        layer.threshold.data = torch.tensor(0.7)
        for got, want in zip(layer(x), other(x), strict=True):
            assert torch.equal(got, want)
        layer.alpha.data.fill_(1.5)  # out of range: used as 1
        other.alpha.data.fill_(1.0)
        for got, want in zip(layer(x), other(x), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("build", [*LAYERS, lambda: HetSynLIFCell(M, N)])
def test_a_copy_looks_for_itself(build: Callable[[], Any]) -> None:
    layer = build()
    x = X[0] if isinstance(layer, HetSynLIFCell) else X
    layer(x)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        weight_of(twin).zero_()
    assert torch.isfinite(layer(x)[0]).all() and not twin(x)[0].any()


def test_a_span_reads_as_short_as_it_can_and_never_fails() -> None:
    assert shared.span(lambda: torch.tensor([20.0, 5.0, 7.0]), " ms") == "5 to 20 ms"
    assert shared.span(lambda: torch.tensor([0.9, 0.90004]), " s") == "0.9 s"
    assert shared.span(lambda: torch.tensor([0.9, 0.90004]), digits=5) == "0.9 to 0.90004"
    assert shared.span(lambda: None) == ""
    assert (
        shared.span(lambda: torch.empty(0)) == "not known"
        and shared.span(lambda: torch.empty(2, device="meta"), unknown="?") == "?"
    )
