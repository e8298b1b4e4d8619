"""The benchmark's table: what is measured where, what is left out, and the way over a card that is not there."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planting import caught, changed
from pretended_card import pretended_card

from hetsyn_plugins import cli
from hetsyn_plugins.benchmark import bench, peers
from hetsyn_plugins.benchmark.peers import Shape

SMALL = {
    "a": Shape(5, 3, 6, 4, rate=0.5),
    "n": Shape(5, 3, 4, 4, rate=0.5, plain=True),
    "net": Shape(5, 3, 1, 4, recurrent=True, network=True),
}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pretended one whose clock says 2 ms between any two events."""

    class Event:
        def __init__(self, **_: Any) -> None:
            pass

        def record(self) -> None:
            pass

        def elapsed_time(self, other: Event) -> float:
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 1 << 30))
    with pretended_card(monkeypatch):
        yield


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "shapes_on", lambda device: SMALL)
    monkeypatch.setattr(bench, "limits", lambda device: (1e9, 1e9))
    monkeypatch.setattr(bench, "chip_rates", lambda: None)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "bench.csv") as table:
        return list(csv.DictReader(table))


COMMAND = ["bench", "--runs", "1", "--no-memory", "--no-scaling", "--out"]


def test_the_table_of_a_card(card: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the clock and by the card's events; ours against plain autograd's float64 first, in float32 on the card."""
    small(monkeypatch)
    assert cli.main([*COMMAND, str(tmp_path), "--device", "cuda"]) == 0
    table = rows(tmp_path)
    assert {(row["shape"], row["card"]) for row in table if row["median"]} == {
        ("a", "2.0"),
        ("n", "2.0"),
        ("net", "2.0"),
    }
    assert all("on the CPU only" in row["note"] for row in table if not row["median"])
    assert [row["peer"] for row in table if row["shape"] == "net"] == ["ours"]


def test_the_table_of_a_cpu_has_no_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch)
    assert cli.main([*COMMAND, str(tmp_path), "--shape", "n"]) == 0
    assert {row["card"] for row in rows(tmp_path)} == {""}
    missing = peers.left_out()
    said = capsys.readouterr().out
    assert all(said.count(f"{peer} left out: ") == 1 for peer in missing)
    assert not {row["peer"] for row in rows(tmp_path)} & set(missing)


def test_what_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    missing = peers.left_out()
    assert set(missing) == set(peers.PEERS) - {"ours", "plain autograd"}
    assert all("pip install " in how for how in missing.values())
    assert peers.peers_of(SMALL["a"]) == ["plain autograd", "ours"] and peers.peers_of(SMALL["n"]) == ["ours"]


def test_a_peer_that_runs_out_of_a_cards_memory_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(shape: Shape) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setitem(peers.PEERS, "plain autograd", too_large)
    times = bench.measure(SMALL["a"], ["plain autograd", "ours"], 1)
    assert times["plain autograd"] == "20.00 GiB more memory needed" and len(times["ours"].clock) == 1  # type: ignore[union-attr]


def test_large_shapes_are_a_cards() -> None:
    assert {"BIG", "S-MNIST", "n = 4096"} <= set(bench.shapes_on("cuda")) - set(bench.shapes_on("cpu"))
    assert "n = 512" in bench.shapes_on("cpu")
    assert cli.main(["bench", "--shape", "BIG"]) == 2 and cli.main(["bench", "--calls", "--device", "cuda"]) == 2


def test_the_multiply_adds_of_a_network_are_those_of_its_layers() -> None:
    """6 a synapse and step where the source needs no gradient, 8 where it does."""
    shape = replace(SMALL["net"], steps=7, batch=2, neurons=64)
    layers = [6 * 1 * 64 + 8 * 64 * 64, 8 * 64 * 64 + 8 * 64 * 64, 8 * 64 * 10]
    assert shape.multiply_adds == 7 * 2 * sum(layers)


def test_a_kernel_that_fires_elsewhere_is_caught_before_it_is_timed(card: None) -> None:
    name = bench.__name__
    planted = changed(
        name, "(peers.our_run, (device, ours))", "(lambda x, p: peers.our_run(1.01 * x, p), (device, ours))"
    )
    with caught("differently"):
        planted[name].gate("cuda:0")
