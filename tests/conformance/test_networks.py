"""`hetsyn verify --networks`: random networks agree, what disagrees is seen and repeated, and what they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planting import planted

from hetsyn_plugins.cli.main import main
from hetsyn_plugins.conformance import backends, networks
from hetsyn_plugins.core.fields import ARRAYS


def test_small_networks_agree_on_every_kernel_and_layer(capsys: pytest.CaptureFixture[str]) -> None:
    """Network 94 has a recurrent mask without any synapse, which the rows' lanes could not take once."""
    assert main(["verify", "--networks", "12"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == len(backends.available()[0]) and all(" 0 disagreements, " in line for line in lines)
    assert last.startswith("12 networks (seeds 0 to 11), ") and " spikes compared over " in last
    assert main(["verify", "--networks", "94:95", "--backend", "cpu-batch"]) == 0


def test_a_planted_bug_is_a_disagreement_that_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """A sign that only layers with adaptation show; the command that is printed finds it again."""
    with planted("hetsyn_plugins.kernels.eager", "v = v - adaptation", "v = v + adaptation"):
        assert main(["verify", "--networks", "9", "--backend", "eager-step", "--backend", "reference"]) == 1
        out = capsys.readouterr().out
        (again, *_) = [line.partition("again: hetsyn ")[2] for line in out.splitlines() if "again: hetsyn " in line]
        assert "smallest failing case (T " in out and "reference      0 disagreements" in out
        assert again.startswith("verify --networks ") and again.endswith(" --backend eager-step")
        assert main(again.split()) == 1
    assert main(again.split()) == 0


def test_networks_have_every_field_and_follow_from_their_seed() -> None:
    drawn = [networks.draw_network(seed) for seed in range(20)]
    layers = [case for network in drawn for case in network]
    for name in ARRAYS:
        present = sum(getattr(case.params, name) is not None for case in layers)
        assert 0 < present, name
    assert {len(network) for network in drawn} == {1, 2, 3, 4}
    assert {case.params.spiking for case in layers} == {case.codebook for case in layers} == {True, False}
    again: Any = networks.draw_network(7)
    for one, other in zip(again, drawn[7], strict=True):
        assert np.array_equal(one.inputs, other.inputs) and np.array_equal(one.params.weight, other.params.weight)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["0"], "--networks: expected a number of them, or seeds as FIRST:END, got '0'"),
        (["5:x"], "--networks: expected a number of them, or seeds as FIRST:END, got '5:x'"),
        (["-2:3"], "--networks: expected a number of them, or seeds as FIRST:END, got '-2:3'"),
        (["5", "--check", "random"], "--networks: expected beside it --backend only, got --check"),
        (["5", "--backend", "integers"], "--backend: expected "),
    ],
)
def test_what_is_no_number_of_networks_is_told(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", f"--networks={arguments[0]}", *arguments[1:]]) == 2
    assert capsys.readouterr().err.startswith(f"hetsyn verify: {says}")
