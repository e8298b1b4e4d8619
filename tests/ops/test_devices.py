"""Devices by name: what is missing is said in one line, for every way in which a card can be of no use."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretended_card import CARD, pretended_card

from hetsyn_plugins.exchange import frameworks
from hetsyn_plugins.ops import devices, dispatch

H100 = (9, 0)


def with_cards(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], triton: str | None = None) -> None:
    """Have torch say that there are these cards, and Triton what is wrong with it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("cpu"))  # a context that changes nothing
    monkeypatch.setattr(dispatch, "why_no_gpu_kernel", lambda: triton)


def test_the_cpu_is_always_there() -> None:
    assert devices.usable("device", "cpu") == torch.device("cpu")
    assert devices.described(torch.device("cpu")) == "cpu" and devices.peak_megabytes(torch.device("cpu")) is None


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:0 ", "cuda:0000", "cpu:0", "meta", "auto"]
)
def test_a_name_that_no_device_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^x: expected cpu, cuda or a card by its number, cuda:0, got '"):
        devices.checked_name("x", name)


def test_without_cuda_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match=r"^x: expected a CUDA device, got none: torch .* is built without CUDA; cpu"):
        devices.usable("x", "cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    with pytest.raises(ValueError, match=r"^x: expected a CUDA device, got none: no card is seen, or no driver"):
        devices.usable("x", "cuda:1")


def test_a_driver_that_is_too_old_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def warns() -> bool:
        import warnings

        warnings.warn("The NVIDIA driver on your system is too old", UserWarning, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warns)
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    with pytest.raises(ValueError, match=r"^x: expected a CUDA device, got none: The NVIDIA driver .* is too old"):
        devices.usable("x", "cuda")


def test_the_card_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cards(monkeypatch, H100, H100)
    assert devices.usable("x", "cuda") == torch.device("cuda:0")
    assert devices.usable("x", "cuda:1") == torch.device("cuda:1")
    assert devices.described(torch.device("cuda:1")) == "cuda:1 (card 1)"


def test_what_is_free_is_also_what_torch_keeps_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert devices.free(torch.device("cuda:0")) == 1400


def test_the_kernel_is_that_of_the_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "why_no_gpu_kernel", lambda: None)
    monkeypatch.setattr(dispatch, "why_no_cpu_kernel", lambda: None)

    def chosen(device: str, dtype: torch.dtype) -> str:
        weight: Any = SimpleNamespace(device=torch.device(device), dtype=dtype)
        return dispatch.choose_backend(weight, weight).backend

    assert [chosen(device, torch.float32) for device in ("cpu", "cuda", "mps")] == ["cpu", "gpu", "eager"]
    assert [chosen(device, torch.float64) for device in ("cpu", "cuda", "mps")] == ["cpu", "eager", "eager"]


LACKS: list[tuple[str, dict[str, Any], str]] = [
    ("cuda:2", {}, r"expected cuda:0 to cuda:1, which are there, got cuda:2"),
    ("cuda:1", {}, r"expected a card of compute capability 7\.0 or later, .* got cuda:1 \(card 1\), of 6\.1"),
    ("cuda:0", {"triton": "the gpu kernel needs triton"}, r"got cuda:0 \(card 0\): the gpu kernel needs triton"),
]


@pytest.mark.parametrize(("name", "lacks", "says"), LACKS, ids=["no such card", "old", "no Triton"])
def test_a_card_of_no_use_is_refused(
    name: str, lacks: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cards(monkeypatch, H100, (6, 1), **lacks)
    with pytest.raises(ValueError, match=says) as raised:
        devices.usable("training.device", name)
    assert str(raised.value).startswith("training.device: expected ")


@pytest.mark.parametrize(
    ("framework", "kind", "name", "is_step"),
    [
        ("snntorch", "HetSynLeaky", "threshold", False),
        ("norse", "HetSynLIF", "v_th", False),
        ("snntorch", "HetSynLeaky", "threshold", True),
        ("norse", "HetSynLIFCell", "v_th", True),
    ],
)
def test_a_part_of_a_layer_left_on_another_device_is_named(
    framework: str, kind: str, name: str, is_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(framework)
    with pretended_card(monkeypatch):
        layer = getattr(frameworks.adapter(framework), kind)(3, 2).to(CARD)
        x = torch.rand((2, 3) if is_step else (4, 2, 3)).to(CARD)
        layer(x)
        holder = layer if framework == "snntorch" else layer.p
        holder._buffers[name] = holder._buffers[name].cpu()
        with pytest.raises(ValueError, match=f"{name}: expected on the weight's device, cuda:0, got cpu"):
            layer(x)
