"""Convolutions as plain data: torch's own convolution, and the dense layers that they are on images of one size."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import torch

from hetsyn_plugins.core.convolution import Convolution, checked_convolution
from hetsyn_plugins.core.network import Flatten, HetSynConv, HetSynLayer, Network, Pool
from hetsyn_plugins.core.params import HetSynParams
from hetsyn_plugins.core.unrolling import unrolled

PLAIN = checked_convolution(2, (2, 3), 2, 1, 0, 1, 1)
ALL = checked_convolution(2, (4, 6), (3, 2), [2, 1], (1, 0), (1, 2), 2)
ONE_AXIS = checked_convolution(1, (2, 4), 3, 2, 1, 2, 1)
SIZES = {PLAIN: (4, 3), ALL: (5, 6), ONE_AXIS: (9,)}


def kernels(convolution: Convolution, **fields: Any) -> HetSynParams:
    """Parameters of a patch, spiking at times."""
    rng = np.random.default_rng(0)
    size = convolution.sizes
    return HetSynParams(rng.normal(size=size), rng.uniform(0.3, 0.9, size), reset_decay=0.8, threshold=0.7, **fields)


@pytest.mark.parametrize("convolution", SIZES, ids=str)
def test_the_dense_matrix_is_torchs_convolution(convolution: Convolution) -> None:
    """Sums of at most 12 products in float64: 12 roundings of sums below 32."""
    size = SIZES[convolution]
    params = kernels(convolution)
    x = np.random.default_rng(1).normal(size=(2, convolution.in_channels, *size))
    conv: Any = torch.nn.functional.conv2d if len(size) == 2 else torch.nn.functional.conv1d
    weight = torch.tensor(params.weight).reshape(convolution.weight_shape)
    of_torch = conv(torch.from_numpy(x), weight, None, *convolution[3:]).numpy()
    dense = convolution.unrolled(params, size)
    assert of_torch.shape == (2, convolution.out_channels, *convolution.output_size(size))
    np.testing.assert_allclose(
        x.reshape(2, -1) @ dense.weight.T, of_torch.reshape(2, -1), rtol=0, atol=12 * 32 * 2.0**-53
    )
    assert np.array_equal(dense.mask, dense.weight != 0) and dense.weight.shape[1] == prod(x.shape[1:])


def test_it_is_shown_as_torch_shows_its_own() -> None:
    assert str(PLAIN) == "2, 3, kernel_size=(2, 2)"
    assert str(ALL) == "4, 6, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2"


@pytest.mark.parametrize("value", [(1, 1, 1), (1,), 0, 1.5, None])
def test_a_kernel_of_other_sizes_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="kernel_size: expected a whole number"):
        checked_convolution(2, (2, 3), value, 1, 0, 1, 1)


# ---- networks ------------------------------------------------------------------------------------------------------


def network() -> Network:
    """Images (4, 5, 6) to 6 channels, averages of 1 x 2, three neurons."""
    rng = np.random.default_rng(2)
    lines = 6 * 3 * 2
    out = HetSynParams(rng.normal(size=(3, lines)), rng.uniform(0.3, 0.9, (3, lines)), reset_decay=0.8)
    conv = HetSynConv(HetSynLayer("conv", kernels(ALL)), ALL)
    return Network((conv, Pool("pool", "average", (1, 2), (1, 2), (0, 0)), Flatten("flat"), HetSynLayer("out", out)))


def test_a_network_over_images_is_its_dense_one() -> None:
    """Spikes are equal: no v here comes within 1e-9 of its threshold, and sums in another order differ by 1e-14."""
    x = (np.random.default_rng(3).random((30, 2, 4, 5, 6)) < 0.4).astype(np.float64)
    images, lines = list(network().walk(x)), list(unrolled(network(), (4, 5, 6)).walk(x.reshape(30, 2, -1)))
    for one, other in ((images[0], lines[0]), (images[-1], lines[-1])):
        assert one.spikes is not None and other.spikes is not None and 0.02 < other.spikes.mean() < 0.98
        assert np.abs(other.v - other.layer.params.threshold).min() > 1e-9
        np.testing.assert_array_equal(one.spikes.reshape(other.spikes.shape), other.spikes)


@pytest.mark.parametrize("shape", [(30, 2, 4, 30), (30, 2, 3, 5, 6), (2, 4, 5, 6)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"inputs: expected shape \(T, B, 4, H, W\) for layer 'conv', got"):
        list(network().walk(np.zeros(shape)))


@pytest.mark.parametrize("image", [(4, 30), (3, 5, 6), (4, 5, 6, 1)])
def test_images_of_another_shape_are_not_unrolled(image: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="unrolled: expected images of 2 axes and 4 channels for layer 'conv'"):
        unrolled(network(), image)
