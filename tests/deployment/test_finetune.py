"""Codebook training: gradients of shared decays, integers in the loop, reassigning, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from planting import caught, planted
from torch import Tensor, nn

from hetsyn_plugins import HetSynParams, fixed_point
from hetsyn_plugins.core.fields import ARRAYS, DELAYS, MASKS
from hetsyn_plugins.core.network import AlwaysOn, Dropout, HetSynLayer, Linear, Network
from hetsyn_plugins.core.surrogate import Arctan
from hetsyn_plugins.deployment import finetune
from hetsyn_plugins.deployment.clusters import Scale, cluster_network
from hetsyn_plugins.fixed_point.network import FixedNetwork, quantise
from hetsyn_plugins.ops import codebook, trainable
from hetsyn_plugins.ops.lif import hetsyn_lif

T, B, M, N, OUT = 30, 4, 5, 6, 3


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return finetune


def floats(dtype: Any = np.float64) -> Network:
    """An always-on line, a hidden layer with everything, and a readout with a bias; no decay twice."""
    rng = np.random.default_rng(3)
    decay = rng.uniform(0.3, 0.99, (N, M + 1))
    decay[0, :2] = [0.0, 1.0]
    hidden = HetSynParams(
        rng.normal(0.3, 0.4, (N, M + 1)),
        decay,
        reset_decay=rng.uniform(0.5, 0.9, N),
        threshold=rng.uniform(0.8, 1.2, N),
        recurrent_weight=rng.normal(0, 0.3, (N, N)),
        recurrent_decay=rng.uniform(0.3, 0.95, (N, N)),
        adaptation_decay=rng.uniform(0.8, 0.95, N),
        adaptation_strength=rng.uniform(0.01, 0.1, N),
        bias=rng.normal(0, 0.05, N),
    )
    out = HetSynParams.readout(rng.normal(0, 0.5, (OUT, N)), rng.uniform(0.3, 0.99, (OUT, N)), bias=np.full(OUT, 0.1))
    layers = (
        AlwaysOn("on"),
        HetSynLayer("hidden", hidden.astype(dtype), surrogate=Arctan(3.0), dt=1e-3),
        Dropout("drop", 0.5),
        HetSynLayer("out", out.astype(dtype)),
    )
    return Network(layers)


def clustered(k: int = 5, dtype: Any = np.float64) -> Network:
    return cluster_network(floats(dtype), k)[0]


def spikes(width: int = M, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(T, B, width) < 0.3).to(dtype)


def hidden_of(module: Any, **options: Any) -> tuple[Any, HetSynLayer]:
    plain = clustered().layers[1]
    assert isinstance(plain, HetSynLayer)
    return module.CodebookHetSyn(plain, **options), plain


# ---- the layer ---------------------------------------------------------------------------------------------------


def test_in_float_it_is_the_clustered_network(module: Any) -> None:
    network, x = clustered(), spikes()
    net = module.from_network(network).eval()
    assert [len(net[i].decay_codebook) for i in (1, 3)] == [5, 5]
    want = network.run(x.numpy())
    np.testing.assert_array_equal(net[:2](x).detach().numpy(), want["hidden"][0], err_msg="spikes of the hidden layer")
    np.testing.assert_allclose(net(x).detach().numpy(), want["out"][1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("unit", [None, 1 / 200])
def test_the_gradient_of_a_shared_decay_is_the_sum_over_its_synapses(module: Any, unit: float | None) -> None:
    """Against the op with one decay a synapse, in float and in integers, inputs and recurrent synapses together."""
    layer, plain = hidden_of(module, unit=unit)
    x, grad_spikes = spikes(M + 1), torch.randn(T, B, N, dtype=torch.float64)
    layer(x).backward(grad_spikes)
    assert layer.decay_codebook.grad is not None, "the codebook gets a gradient"
    arrays = {name: getattr(plain.params.expanded(), name) for name in ARRAYS}
    fields: dict[str, Any] = {
        f: None if a is None else torch.tensor(np.array(a), requires_grad=True) for f, a in arrays.items()
    }
    if unit is None:
        z = hetsyn_lif(x, **fields, surrogate=plain.surrogate)[0]
    else:
        z = finetune.hetsyn_lif_quantised(x, **fields, surrogate=plain.surrogate, unit=unit)[0]
    z.backward(grad_spikes)
    for k, r in enumerate(layer.decay_codebook):
        total = (
            fields["decay"].grad[fields["decay"] == r].sum()
            + fields["recurrent_decay"].grad[fields["recurrent_decay"] == r].sum()
        )
        torch.testing.assert_close(
            layer.decay_codebook.grad[k], total, rtol=1e-9, atol=1e-11, msg=f"gradient of decay {k}"
        )
    assert layer.decay_codebook.grad.abs().min() > 0
    for name in ("weight", "recurrent_weight", "bias"):
        torch.testing.assert_close(getattr(layer, name).grad, fields[name].grad, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_the_codebook_is_its_finite_difference(module: Any) -> None:
    """Of the readout, which is smooth: central differences with h = 1e-6 in float64."""
    rng = np.random.default_rng(0)
    decay = np.array([0.2, 0.6, 0.9, 0.99])[rng.integers(0, 4, (OUT, N))]
    layer = module.CodebookHetSyn(HetSynLayer("out", HetSynParams.readout(rng.normal(size=(OUT, N)), decay)))
    x = spikes(N)
    layer(x).square().sum().backward()
    for k in range(4):
        sides = []
        for h in (1e-6, -2e-6):
            with torch.no_grad():
                layer.decay_codebook[k] += h
                sides.append(float(layer(x).square().sum()))
        with torch.no_grad():
            layer.decay_codebook[k] += 1e-6
        np.testing.assert_allclose(layer.decay_codebook.grad[k], (sides[0] - sides[1]) / 2e-6, rtol=1e-5)


def test_decays_are_bounded_and_clamped(module: Any) -> None:
    layer, _ = hidden_of(module)
    with torch.no_grad():
        layer.decay_codebook[1], layer.decay_codebook[3] = -0.2, 1.3
        layer.reset_decay[0], layer.adaptation_decay[1], layer.threshold[2] = 1.2, -0.1, -5.0
    fields = layer.tensors()
    for name in ("decay", "recurrent_decay", "reset_decay", "adaptation_decay"):
        assert fields[name].min() >= 0 and fields[name].max() <= 1, f"{name} is bounded"
    assert fields["threshold"].min() > 0
    layer(spikes(M + 1))  # does not raise
    layer.clamp_()
    assert layer.decay_codebook.min() == 0 and layer.decay_codebook.max() == 1, "clamped to [0, 1]"
    assert layer.threshold.min() > 0
    assert layer.reset_decay.max() <= 1 and layer.adaptation_decay.min() == 0
    layer.to_layer()


def test_what_is_learned_is_what_the_layer_says(module: Any) -> None:
    layer, plain = hidden_of(module)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "recurrent_weight", "decay_codebook", "bias"}
    everything = {*ARRAYS} - {"decay", "weight", *DELAYS, *MASKS}
    other = module.CodebookHetSyn(HetSynLayer("h", plain.params, learned=frozenset(everything)))
    names = {name for name, _ in other.named_parameters()}
    assert names == everything - {"recurrent_decay"}
    readout = HetSynParams.readout(np.ones((1, 2)), 0.5)
    last = module.CodebookHetSyn(HetSynLayer("out", readout, learned=frozenset({"threshold", "decay"})))
    assert [name for name, _ in last.named_parameters()] == ["decay_codebook"]


# ---- reassigning -------------------------------------------------------------------------------------------------


def test_synapses_move_to_what_is_nearest_to_their_latent_decay(module: Any) -> None:
    before = floats().layers[1]
    assert isinstance(before, HetSynLayer)
    layer, plain = hidden_of(module, latent=before.params)
    np.testing.assert_array_equal(layer.decay_latent.detach().numpy(), before.params.decay)
    decay = layer.tensors()["decay"].detach().numpy()
    np.testing.assert_array_equal(decay, plain.params.decay, err_msg="the codebook's values are used")
    with torch.no_grad():  # the codebook moves, out of order too
        layer.decay_codebook[1:4] = torch.tensor([0.97, 0.55, 0.75])
        layer.recurrent_decay_latent[2, 3] = 0.001
    old = layer.tensors()["decay"].detach().clone()
    moved = layer.reassign_(T)
    scale, book = Scale(T), layer.decay_codebook.detach().numpy()
    count = 0
    for name in ("decay", "recurrent_decay"):
        decay = layer.tensors()[name].detach().numpy()
        latent = getattr(layer, f"{name}_latent").detach().numpy()
        want = book[np.abs(scale.place(book) - scale.place(latent)[..., None]).argmin(-1)]
        np.testing.assert_array_equal(decay, want, err_msg="the nearest of the codebook")
        count += decay.size
    assert 0 < moved < count and layer.tensors()["recurrent_decay"][2, 3] == 0
    assert moved >= (layer.tensors()["decay"] != old).sum()
    assert layer.reassign_(T) == 0


def test_latent_decays_are_trained_straight_through(module: Any) -> None:
    """Their gradient is that of the synapse's own decay; the values used are those of the codebook."""
    before = floats().layers[1]
    assert isinstance(before, HetSynLayer)
    layer, _ = hidden_of(module, latent=before.params)
    x, grad_spikes = spikes(M + 1), torch.randn(T, B, N, dtype=torch.float64)
    layer(x).backward(grad_spikes)
    without, _ = hidden_of(module)
    without(x).backward(grad_spikes)
    torch.testing.assert_close(layer.decay_codebook.grad, without.decay_codebook.grad, rtol=0, atol=0)
    for k in range(len(layer.decay_codebook)):
        total = layer.decay_latent.grad[layer.decay_index == k].sum()
        total += layer.recurrent_decay_latent.grad[layer.recurrent_decay_index == k].sum()
        torch.testing.assert_close(
            layer.decay_codebook.grad[k], total, rtol=1e-9, atol=1e-11, msg=f"latent decays of {k}"
        )
    with pytest.raises(
        ValueError, match="reassign: expected a layer with share='codebook' and reassign=True, got False"
    ):
        without.reassign_(T)


# ---- integers in the loop ----------------------------------------------------------------------------------------


def quantised(network: Network, units: dict[str, float]) -> FixedNetwork:
    return quantise(network, clip=True, units=units)[0]


def late(network: Network) -> Network:
    """The same with whole delays in its hidden layer, which are said to be learned."""
    on, hidden, *others = network.layers
    assert isinstance(hidden, HetSynLayer)
    delays = np.random.default_rng(5).integers(0, 6, (N, M + 1)).astype(hidden.params.weight.dtype)
    params = hidden.params.replace(delay=delays, recurrent_delay=delays[:, :N])
    return Network((on, replace(hidden, params=params, learned=hidden.learned | set(DELAYS)), *others))


@pytest.mark.parametrize("delays", [False, True])
def test_training_sees_the_integers_that_are_deployed(module: Any, delays: bool) -> None:
    """Bit for bit, after steps that moved everything, in the units of the start; and not those of other units."""
    network = clustered(dtype=np.float32)
    network = late(network) if delays else network
    units = module.units_of(network)
    net = module.from_network(network, units=units).eval()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    x = spikes(dtype=torch.float32)
    for _ in range(5):
        net(x).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        net[1].clamp_()
        net[3].clamp_()
    out = module.to_network(net)
    if delays:
        was, now = (of.layers[1].params for of in (network, out))
        np.testing.assert_array_equal(now.delay, was.delay, err_msg="delays stay as they are")
        np.testing.assert_array_equal(now.recurrent_delay, was.recurrent_delay)
    runs = quantised(out, units).run(x.numpy())
    in_training = net[:2](x).detach().numpy()
    np.testing.assert_array_equal(in_training, runs["hidden"].spikes, err_msg="spikes of the integers")
    np.testing.assert_array_equal(net(x).detach().numpy(), (runs["out"].v * (units["out"] / 64)).astype(np.float32))
    assert runs["hidden"].spikes.any()
    assert (quantised(out, module.units_of(out)).run(x.numpy())["out"].v != runs["out"].v).any()


def test_what_comes_back_is_words_of_the_codebook(module: Any) -> None:
    network = clustered()
    net = module.from_network(network)
    with torch.no_grad():
        net[1].decay_codebook[1:4] += torch.tensor([0.00011, -0.00007, 0.3])
        net[1].weight += 0.25
    out = module.to_network(net)
    assert [layer.name for layer in out.layers] == ["on", "hidden", "drop", "out"]
    hidden, start = out.layers[1], network.layers[1]
    assert isinstance(hidden, HetSynLayer) and isinstance(start, HetSynLayer)
    assert hidden.surrogate == Arctan(3.0) and hidden.dt == 1e-3
    np.testing.assert_array_equal(hidden.params.weight, start.params.weight + 0.25, err_msg="trained weights")
    fixed, rounding = fixed_point.quantise(hidden.params.replace(reset_decay=0.5, adaptation_decay=0.5))
    assert rounding.decay_error == 0 and len(fixed.codebook) <= 5
    np.testing.assert_array_equal(fixed.decay, fixed_point.decay_to_word(net[1].tensors()["decay"].detach().numpy()))
    plain = module.to_network(net, words=False).layers[1]
    np.testing.assert_array_equal(plain.params.decay, net[1].tensors()["decay"].detach().numpy())


def test_a_linear_is_refused(module: Any) -> None:
    with pytest.raises(
        ValueError, match="layer 'mix': expected HetSyn layers, Dropout and AlwaysOn only, got a Linear"
    ):
        module.from_network(Network((Linear("mix", np.ones((M, M))), *floats().layers[:2])))


# ---- the helper --------------------------------------------------------------------------------------------------


def when_task() -> Callable[[], Any]:
    """Three classes told apart by when line 0 is busy, and noise on all; two batches of 32, the same every time."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        labels = torch.randint(0, OUT, (32,), generator=generator)
        x = (torch.rand(T, 32, M, generator=generator) < 0.1).float()
        for row, label in enumerate(labels.tolist()):
            x[10 * label : 10 * label + 10, row, 0] = 1
        batches.append((x, labels))
    return lambda: batches


@pytest.mark.parametrize(
    "options", [{}, {"quantised": False}, {"latent": floats()}], ids=["integers", "float", "latent"]
)
def test_fine_tuning_learns(module: Any, options: dict[str, Any]) -> None:
    network, batches = clustered(), when_task()
    tuned = module.fine_tune(network, batches, epochs=20, lr=0.03, decay_lr=0.005, **options)
    assert len(tuned.losses) == 20 and tuned.losses[-1] < 0.6 * tuned.losses[0], tuned.losses
    assert set(tuned.units) == ({"hidden", "out"} if options.get("quantised", True) else set())
    right, before = [], network.layers[1]
    units = tuned.units or module.units_of(tuned.network)
    for x, labels in batches():
        v = quantised(tuned.network, units).run(x.numpy())["out"].v[-1]
        right.append((v.argmax(-1) == labels.numpy()).mean())
    assert np.mean(right) > 0.75
    after = tuned.network.layers[1]
    assert isinstance(before, HetSynLayer) and isinstance(after, HetSynLayer)
    assert len(np.unique(np.append(after.params.decay, after.params.recurrent_decay))) <= 5
    assert after.params.weight.dtype == np.float32 and (after.params.weight != before.params.weight).any()
    assert set(np.unique(after.params.decay)) != set(np.unique(before.params.decay)), "the codebook is learned"
    np.testing.assert_array_equal(after.params.threshold, before.params.threshold.astype(np.float32))
    together = [layer.params.decay.ravel()[:, None] == layer.params.decay.ravel() for layer in (before, after)]
    assert (together[0] != together[1]).any() == ("latent" in options), "with latent decays synapses move"


def test_the_loss_is_the_callers(module: Any) -> None:
    seen = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append((tuple(output.shape), target))
        return nn.functional.cross_entropy(output[0], target)

    target = torch.zeros(B, dtype=torch.long)
    tuned = module.fine_tune(clustered(), lambda: [(spikes(), target)] * 2, epochs=3, loss=loss)
    assert len(seen) == 6, "the caller's loss is called"
    assert seen[0] == ((T, B, OUT), target) and len(tuned.losses) == 3
    with pytest.raises(ValueError, match="epochs: expected at least 1, got 0"):
        module.fine_tune(clustered(), lambda: [], epochs=0)


@pytest.mark.parametrize("quantised", [True, False])
def test_no_dropout_acts_on_integers(module: Any, quantised: bool) -> None:
    """Trained with p = 0.5 and with p = 0 a network comes out the same to the bit; in float it does not."""
    losses = []
    for p in (0.5, 0.0):
        layers = [replace(at, p=p) if isinstance(at, Dropout) else at for at in clustered().layers]
        torch.manual_seed(0)
        tuned = module.fine_tune(Network(tuple(layers)), when_task(), epochs=2, lr=0.03, quantised=quantised)
        losses.append(tuned.losses)
    assert (losses[0] == losses[1]) == quantised, "dropout acts in float only"


# ---- planted bugs ------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In `file` `old` becomes `new`; `check` must then fail with an error that says `says`."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    says: str = ""
    error: type[BaseException] = AssertionError
    file: Any = finetune


# what the layer is made of, and the name of the file in which each bug sits
AROUND = [codebook.__name__, trainable.__name__, finetune.__name__]
BUGS = [
    Bug(
        "decays get no gradient",
        "decay: Tensor = Shared.apply(decays, index)",
        "decay: Tensor = Shared.apply(decays, index).detach()",
        test_the_gradient_of_a_shared_decay_is_the_sum_over_its_synapses,
        (None,),
        says="the codebook gets a gradient",
        file=codebook,
    ),
    Bug(
        "inputs only",
        "return shared(decays, index, self.latent(field))",
        'return shared(decays if field == "decay" else decays.detach(), index, self.latent(field))',
        test_the_gradient_of_a_shared_decay_is_the_sum_over_its_synapses,
        (1 / 200,),
        says="gradient of decay ",
        file=trainable,
    ),
    Bug(
        "neighbours mixed up",
        "Shared.apply(decays, index)",
        "Shared.apply(decays, (index - 1).clamp(min=0))",
        test_in_float_it_is_the_clustered_network,
        (),
        says="spikes of the hidden layer",
        file=codebook,
    ),
    Bug(
        "unbounded",
        "return bounded(stored, DECAY.least, DECAY.most)",
        "return stored",
        test_decays_are_bounded_and_clamped,
        (),
        says="decay is bounded",
        file=trainable,
    ),
    Bug(
        "clamped to above",
        '0.0, 1.0 if self.parametrization == "decay" else inf',
        '0.0, 2.0 if self.parametrization == "decay" else inf',
        test_decays_are_bounded_and_clamped,
        (),
        says="clamped to [0, 1]",
        file=trainable,
    ),
    Bug(
        "everything is learned",
        "{field: field in learned for field in ARRAYS}",
        "{field: True for field in ARRAYS}",
        test_what_is_learned_is_what_the_layer_says,
        (),
        says="Extra items in the left set",
    ),
    Bug(
        "surrogate forgotten",
        '"surrogate": self.layer.surrogate',
        '"surrogate": None',
        test_the_gradient_of_a_shared_decay_is_the_sum_over_its_synapses,
        (None,),
        says="gradient of decay ",
    ),
    Bug(
        "the codebook is taken for sorted",
        "return order[torch.from_numpy(found)].to(",
        "return torch.from_numpy(found).to(",
        test_synapses_move_to_what_is_nearest_to_their_latent_decay,
        (),
        says="the nearest of the codebook",
        file=codebook,
    ),
    Bug(
        "nearest in another sense",
        "Scale(steps), 0",
        "Scale(2), 0",
        test_synapses_move_to_what_is_nearest_to_their_latent_decay,
        (),
        says="the nearest of the codebook",
        file=trainable,
    ),
    Bug(
        "latent values leak",
        "decay + (latent - latent.detach())",
        "latent",
        test_synapses_move_to_what_is_nearest_to_their_latent_decay,
        (),
        says="the codebook's values are used",
        file=codebook,
    ),
    Bug(
        "latent decays get no gradient",
        "decay + (latent - latent.detach())",
        "decay + 0 * latent",
        test_latent_decays_are_trained_straight_through,
        (),
        says="latent decays of ",
        file=codebook,
    ),
    Bug(
        "another unit",
        "unit=self.unit, name",
        "unit=self.unit * 1.01, name",
        test_training_sees_the_integers_that_are_deployed,
        (False,),
        says="spikes of the integers",
    ),
    Bug(
        "integers learn delays",
        "if unit is not None:",
        "if False:",
        test_training_sees_the_integers_that_are_deployed,
        (True,),
        says="delay: expected whole steps",
        error=ValueError,
    ),
    Bug(
        "words are not rounded",
        "1.0 - decay_to_word(decay.double().cpu().numpy()) / DECAY_ONE",
        "decay.double().cpu().numpy()",
        test_what_comes_back_is_words_of_the_codebook,
        (),
        says=".decay_error",
    ),
    Bug(
        "weights do not come back",
        "params = to_hetsyn_params(fields, self.layer.params.spiking, self.max_delay or None)",
        "params = self.layer.params",
        test_what_comes_back_is_words_of_the_codebook,
        (),
        says="trained weights",
    ),
    Bug(
        "decays stand still",
        '{"params": decays, "lr": decay_lr}',
        '{"params": decays, "lr": 0.0}',
        test_fine_tuning_learns,
        ({},),
        says="the codebook is learned",
    ),
    Bug(
        "never reassigned",
        "if latent is not None:\n            for",
        "if False:\n            for",
        test_fine_tuning_learns,
        ({"latent": floats()},),
        says="with latent decays synapses move",
    ),
    Bug(
        "the caller's loss is ignored",
        "loss(net(inputs.float()), labels)",
        "last_step(net(inputs.float()), labels)",
        test_the_loss_is_the_callers,
        (),
        says="the caller's loss is called",
    ),
    Bug(
        "integers with dropout on",
        ".train(not quantised)",
        ".train()",
        test_no_dropout_acts_on_integers,
        (True,),
        says="dropout acts in float only",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    with planted(bug.file.__name__, bug.old, bug.new, around=AROUND), caught(bug.says, bug.error):
        bug.check(import_module(finetune.__name__), *bug.arguments)


def test_as_before_is_the_divergence_of_two_softmaxes() -> None:
    """Against its definition, sum p (log p - log q); nothing where both are the same, whatever was added to all."""
    generator = torch.Generator().manual_seed(0)
    output, wanted = (torch.randn(size, generator=generator).double() for size in ((4, 3, 5), (3, 5)))
    p, q = wanted.softmax(1), output[-1].softmax(1)
    by_definition = (p * (p.log() - q.log())).sum(1).mean()
    assert abs(finetune.as_before(output, wanted) - by_definition) < 1e-12
    assert abs(finetune.as_before(output, output[-1] + 3.0)) < 1e-12


@pytest.mark.parametrize("loss", [finetune.last_step, finetune.as_before])
def test_a_loss_refuses_labels_of_another_batch(loss: Any) -> None:
    output, name = torch.zeros(6, 4, OUT), "labels" if loss is finetune.last_step else "wanted"
    for count, hint in ((6, "; 6 is T: time and batch look swapped.* batch_first=True"), (5, "$")):
        wanted = torch.zeros(count, dtype=torch.long) if name == "labels" else torch.zeros(count, OUT)
        with pytest.raises(ValueError, match=rf"{name}: expected 4, one a sample.*, got shape \({count}, ?.*\){hint}"):
            loss(output, wanted)
