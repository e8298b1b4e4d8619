"""Networks as plain data: widths that meet, and the walk through them, layer by layer and in pieces of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import params, plain, spike_trains
from planting import caught, planted

from hetsyn_plugins import HetSynParams
from hetsyn_plugins.core import network, reference
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network

T, B, M, N = 25, 3, 4, 5


def test_widths_and_names_must_meet() -> None:
    layer = HetSynLayer("a", params())
    with pytest.raises(ValueError, match="layer 'b': expected 6 lines in, as come out before it, got 7"):
        Network((layer, HetSynLayer("b", params())))
    with pytest.raises(ValueError, match="layers: expected different names, got a, a"):
        Network((layer, layer))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network(()), "layers: expected a tuple of one layer or more"),
        (lambda: Network([Dropout("a", 0.5)]), "layers: expected a tuple of one layer or more"),
        (lambda: Network(("a",)), "layers: expected HetSynLayer or .* or Flatten, got str"),
        (lambda: Dropout("", 0.5), "name: expected a printable text, got ''"),
        (lambda: AlwaysOn(3), "name: expected a printable text, got 3"),
        (lambda: Dropout("a", True), r"p: expected a probability in \[0, 1\], got True"),
        (lambda: Dropout("a", float("nan")), "p: expected a probability"),
        (lambda: Linear("a", np.full((2, 2), np.nan)), "weight: expected finite values"),
        (lambda: Linear("a", np.ones((2, 2)), np.array([0, np.inf])), "bias: expected finite values"),
        (lambda: Linear("a", np.ones((2, 2)), np.ones(3)), r"bias: expected shape \(2,\)"),
        (lambda: Linear("a", np.ones((2, 2)), np.ones(2, np.float32)), "bias: expected the weight's dtype"),
        (lambda: Linear("a", np.ones(2)), r"weight: expected shape \(N, M\)"),
        (lambda: Linear("a", np.ones((2, 2), np.float16)), "weight: expected float32 or float64 numbers"),
        (lambda: Linear("a", np.ones((2, 2)), learned=frozenset({"decay"})), "learned: expected a frozenset of weight"),
        (lambda: HetSynLayer("a", params(), dt=float("nan")), "dt: expected a step length in seconds"),
        (lambda: HetSynLayer("a", params(), dt="1"), "dt: expected a step length in seconds"),
        (lambda: HetSynLayer("a", params(), share="all"), "share: expected one of synapse, neuron, layer, codebook"),
        (lambda: HetSynLayer("a", params(), parametrization="r"), "parametrization: expected one of decay, tau"),
        (lambda: HetSynLayer("a", params(), tie_reset=1), "tie_reset: expected True or False, got 1"),
        (lambda: HetSynLayer("a", params(), learned={"decays"}), "learned: expected a frozenset of weight, decay"),
        (lambda: HetSynLayer("a", params(), surrogate="arctan"), "surrogate: expected Surrogate, got str"),
        (lambda: HetSynLayer("a", params().weight), "params: expected HetSynParams, got ndarray"),
        (lambda: HetSynLayer("a", params(), stored=[1]), "stored: expected Mapping, got list"),
        (lambda: HetSynLayer("a", params(), stored={"decay": np.ones((6, 7))}), "stored: expected decays that are"),
        (lambda: params(spiking=1), "spiking: expected True or False, got 1"),
    ],
)
def test_what_no_layer_can_have_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("parametrization", "end", "decay"), [("tau", 1, 1.0), ("log_tau", 1, 1.0), ("log_tau", -1, 0.0)]
)
def test_an_infinite_tau_means_a_decay_of_one(parametrization: str, end: int, decay: float) -> None:
    """And an infinite negative log tau one of zero; beside any other decay it is damage."""
    p = HetSynParams(np.ones((2, 3)), np.full((2, 3), decay), reset_decay=0.5)
    options: dict[str, Any] = {"parametrization": parametrization, "stored": {"decay": np.full((2, 3), end * np.inf)}}
    HetSynLayer("a", p, **options)
    for other in (0.5, 1 - decay):
        with pytest.raises(ValueError, match=r"^stored decay: expected finite values"):
            HetSynLayer("a", p.replace(decay=np.full((2, 3), other)), **options)


def test_numbers_of_numpy_are_numbers() -> None:
    """As a search over values gives them."""
    layer = HetSynLayer("a", params(), dt=np.float32(0.5), tie_reset=np.bool_(False))
    assert type(layer.dt) is float and type(layer.tie_reset) is bool
    assert type(Dropout("a", np.float64(0.25)).p) is float


def test_reference_runs_the_layers_one_after_the_other() -> None:
    net, x = plain(), spike_trains().numpy()
    mix, hidden, _, out = net.layers
    z, _, _ = reference.run(hidden.params, x @ mix.weight.T + mix.bias)
    np.testing.assert_array_equal(net.run(x)["out"][1], reference.run(out.params, z)[1])


# ---- the walk -----------------------------------------------------------------------------------------------------


def every_kind() -> Network:
    """Linear with and without a bias, Dropout, AlwaysOn, a recurrent layer, a readout."""
    rng = np.random.default_rng(0)
    hidden = HetSynParams(
        rng.normal(0.3, 0.5, (N, M + 1)),
        rng.uniform(0.5, 0.95, (N, M + 1)),
        reset_decay=0.8,
        recurrent_weight=rng.normal(0, 0.3, (N, N)),
        recurrent_decay=0.7,
    )
    layers = (
        Linear("mix", rng.normal(0, 0.7, (M, M)), rng.normal(0, 0.3, M)),
        Dropout("drop", 0.5),
        AlwaysOn("on"),
        HetSynLayer("hidden", hidden),
        Linear("thin", rng.normal(0, 1, (2, N)).astype(np.float32)),
        HetSynLayer("out", HetSynParams.readout(rng.normal(0, 1, (2, 2)), 0.9)),
    )
    return Network(layers)


def spikes() -> Any:
    return (np.random.default_rng(1).random((T, B, M)) < 0.4).astype(np.int64)


def check_walk(module: Any) -> None:
    """What comes into each layer and out of it, one layer after the other written out."""
    net, x = every_kind(), spikes()
    mix, _, _, hidden, thin, out = net.layers
    assert isinstance(mix, Linear) and isinstance(thin, Linear)
    assert isinstance(hidden, HetSynLayer) and isinstance(out, HetSynLayer)
    mixed = x @ mix.weight.T + mix.bias
    lines = np.concatenate([mixed, np.ones((T, B, 1))], axis=2)
    z, v, _ = reference.run(hidden.params, lines)
    thinned = z @ thin.weight.astype(np.float64).T
    _, readout, _ = reference.run(out.params, thinned)
    assert z is not None and 0.05 < z.mean() < 0.9
    fresh = module.Network(tuple(getattr(module, type(layer).__name__)(**vars(layer)) for layer in net.layers))
    passes = list(fresh.walk(x))
    assert [p.layer.name for p in passes] == ["mix", "drop", "on", "hidden", "thin", "out"]
    entering, leaving = (x, mixed, mixed, lines, z, thinned), (mixed, mixed, lines, v, thinned, readout)
    for p, comes, goes in zip(passes, entering, leaving, strict=True):
        np.testing.assert_array_equal(p.inputs, comes, err_msg=f"into {p.layer.name}")
        np.testing.assert_array_equal(p.v, goes, err_msg=f"out of {p.layer.name}")
    results = fresh.run(x)
    assert list(results) == ["hidden", "out"] and results["out"][0] is None
    np.testing.assert_array_equal(results["hidden"][0], z)
    np.testing.assert_array_equal(results["out"][1], readout)


def check_pieces(module: Any) -> None:
    """A run in pieces of seven steps is the reference's in one, to the bit."""
    p = every_kind().layers[3]
    assert isinstance(p, HetSynLayer)
    x = np.random.default_rng(2).normal(0.2, 1, (T, B, M + 1))
    want, want_v, _ = reference.run(p.params, x)
    run, lengths = reference.run, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 8 * B * (N + M + 1) * N - 1)
        patch.setattr(reference, "run", lambda p, x, state=None: (lengths.append(len(x)), run(p, x, state))[1])
        z, v = module.outputs(p.params, x)
    assert set(lengths[:-1]) == {7} and sum(lengths) == T, "as many steps as have fewer currents than CHUNK"
    np.testing.assert_array_equal(z, want, err_msg="spikes in pieces")
    np.testing.assert_array_equal(v, want_v, err_msg="v in pieces")
    z, v = module.outputs(p.params, x[:0])
    assert z.shape == v.shape == (0, B, N)


def test_every_kind_of_layer_is_passed() -> None:
    check_walk(network)


def test_pieces_of_time_are_the_whole_run() -> None:
    check_pieces(network)


BUGS = [
    ("no bias", "v = v if layer.bias is None else v + layer.bias", "pass", check_walk, "out of mix"),
    ("the line is off", "np.ones((*x.shape[:2], 1))", "np.zeros((*x.shape[:2], 1))", check_walk, "out of on"),
    ("v goes on", "x = v if spikes is None else spikes", "x = v", check_walk, "into thin"),
    (
        "every piece from zeros",
        "params, x[t : t + at_once], state)",
        "params, x[t : t + at_once])",
        check_pieces,
        "in pieces",
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "check", "says"), BUGS, ids=[bug[0] for bug in BUGS])
def test_planted_bugs_are_caught(name: str, old: str, new: str, check: Any, says: str) -> None:
    with planted(network.__name__, old, new) as module, caught(says):
        check(module)
