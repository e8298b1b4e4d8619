"""TF32 is off inside, whatever was said of it outside, and outside it stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hetsyn_plugins.kernels.gpu.precision import full_precision

MATMUL = torch.backends.cuda.matmul
HAS_FP32_PRECISION = hasattr(MATMUL, "fp32_precision")  # from torch 2.9 on


@pytest.fixture(autouse=True)
def _default() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    if HAS_FP32_PRECISION:
        torch.backends.fp32_precision = "none"
        MATMUL.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


def readings() -> list[Any]:
    """Whatever can be read of the setting; reading fails where another way was used to set it."""
    read: list[Any] = []
    for reader in (
        torch.get_float32_matmul_precision,
        lambda: MATMUL.allow_tf32,
        lambda: MATMUL.fp32_precision,
        lambda: torch.backends.fp32_precision,
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
    ):
        try:
            read.append(reader())
        except (RuntimeError, AttributeError) as error:
            read.append(type(error))
    return read


def allow() -> None:
    MATMUL.allow_tf32 = True


def set_fp32_precision() -> None:
    MATMUL.fp32_precision = "tf32"


def set_all_fp32_precision() -> None:
    torch.backends.fp32_precision = "tf32"


WAYS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": allow,
}
if HAS_FP32_PRECISION:
    WAYS |= {"fp32_precision": set_fp32_precision, "fp32_precision of all": set_all_fp32_precision}


@pytest.mark.parametrize("way", WAYS)
def test_no_product_uses_tf32_and_what_was_set_is_set_again(way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about the older ways
        WAYS[way]()
        before = readings()
        with full_precision():
            assert MATMUL.allow_tf32 is False  # fails itself where the newest setting says otherwise
            assert getattr(MATMUL, "fp32_precision", "ieee") in ("ieee", "none")
        assert readings() == before


def test_what_was_set_is_set_again_after_an_error() -> None:
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ZeroDivisionError), full_precision():
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(not HAS_FP32_PRECISION, reason="torch had no such setting before 2.9")
def test_a_setting_that_was_inherited_still_is() -> None:
    torch.backends.fp32_precision = "tf32"
    with full_precision():
        pass
    torch.backends.fp32_precision = "ieee"
    assert MATMUL.fp32_precision == "ieee"
