"""Shared decays: the best ones on a line (by brute force), and with which ones training begins."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from planting import caught, planted

from hetsyn_plugins.core import codebook


@pytest.fixture
def module() -> Any:
    """The module under test; the planted bugs at the end run the same checks on changed ones."""
    return codebook


# ---- the best clusters -------------------------------------------------------------------------------------------


def loss(x: Any, weight: Any, centres: Any) -> float:
    return float((weight * ((x[:, None] - np.asarray(centres)) ** 2).min(1)).sum())


def test_no_assignment_is_better(module: Any) -> None:
    """Every assignment of 7 weighted points to 1, 2 and 3 clusters, by brute force; one point twice."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, weight = rng.normal(size=7) * 10, rng.uniform(0.1, 3, 7)
        x[3] = x[5]
        for k, centres in enumerate(module.kmeans(x, weight, 3), 1):
            best = np.inf
            for labels in product(range(k), repeat=7):
                at = np.array(labels)
                means = [
                    np.average(x[at == c], weights=weight[at == c]) if (at == c).any() else np.inf for c in range(k)
                ]
                best = min(best, loss(x, weight, means))
            assert len(centres) == k and (np.diff(centres) > 0).all()
            ours = loss(x, weight, centres)
            np.testing.assert_allclose(ours, best, rtol=1e-6, atol=1e-12, err_msg="as good as the best assignment")


def test_as_many_clusters_as_points_lose_nothing(module: Any) -> None:
    x = np.array([3.0, 1.0, 2.0, 3.0])
    centres = module.kmeans(x, np.array([1.0, 0.0, 2.0, 1.0]), 10)
    assert [len(c) for c in centres] == [1, 2, 3]
    np.testing.assert_allclose(centres[-1], [1, 2, 3], rtol=1e-12)
    np.testing.assert_allclose(centres[0], [2.5], rtol=1e-8)  # what has no weight does not pull


def test_many_points_are_clustered_as_well_as_many_starts_find(module: Any) -> None:
    """20,000 points, binned inside: at most 0.1 % above the best of 20 runs of Lloyd's iteration."""
    rng = np.random.default_rng(0)
    x, weight = rng.gamma(1.5, 20.0, 20_000), rng.uniform(0, 1, 20_000)
    best = np.inf
    for _ in range(20):
        centres = np.sort(rng.choice(x, 6, replace=False))
        for _ in range(30):
            at = np.searchsorted((centres[1:] + centres[:-1]) / 2, x)
            centres = np.bincount(at, weight * x) / np.bincount(at, weight)
        best = min(best, loss(x, weight, centres))
    assert loss(x, weight, module.kmeans(x, weight, 6)[-1]) < 1.001 * best, "as good as many starts"


@pytest.mark.parametrize("steps", [2, 30, 250])
def test_places_are_as_far_apart_as_responses(module: Any, steps: int) -> None:
    """The squared distance is the energy of the difference of two responses to a spike, for decays that are near."""
    scale = module.Scale(steps)
    for r in (0.05, 0.5, 0.9, 0.97, 0.995, 0.9999):
        c = r - (1 - r) / 50
        energy = sum((r**s - c**s) ** 2 for s in range(steps))
        np.testing.assert_allclose((scale.place(r) - scale.place(c)) ** 2, energy, rtol=0.04, err_msg="energy")
        np.testing.assert_allclose(scale.decay(scale.place(r)), r, rtol=1e-12)
    assert scale.place(0.0) == 0 and scale.decay(scale.place(1.0)) == 1


# ---- where training begins ------------------------------------------------------------------------------------------


def test_few_decays_are_the_codebook_to_the_bit(module: Any) -> None:
    decays = [np.float32([[0.5, 0.9], [0.9, 0.1]]), np.float32([[0.1, 0.2], [0.9, 0.5]])]
    book, index = module.start(decays, decays, 4)
    np.testing.assert_array_equal(book.astype(np.float32), np.float32([0.1, 0.2, 0.5, 0.9]))
    for i, d in zip(index, decays, strict=True):
        assert i.dtype == np.int32
        np.testing.assert_array_equal(book.astype(np.float32)[i], d, err_msg="every synapse keeps its decay")


def test_many_decays_become_the_best_ones_weighted_by_the_square_of_the_weight(module: Any) -> None:
    rng = np.random.default_rng(0)
    decay, weight = rng.uniform(0.1, 0.99, (7, 11)), rng.normal(size=(7, 11))
    book, (index,) = module.start([decay], [weight], 5)
    scale = codebook.Scale(codebook.RUN)
    places = scale.place(decay)
    np.testing.assert_array_equal(index, np.abs(places[..., None] - scale.place(book)).argmin(-1))
    for k in range(5):
        centre = np.average(places[index == k], weights=weight[index == k] ** 2)
        np.testing.assert_allclose(scale.place(book[k]), centre, rtol=1e-6, err_msg="the weighted mean of its synapses")


@pytest.mark.parametrize("k", [1, 2, 7, 12])
def test_one_decay_of_many_synapses_is_there_k_times(module: Any, k: int) -> None:
    """Copies have nearly as many synapses each; and no line has the same one in every neuron."""
    book, (index,) = module.start([np.full((5, 60), 0.9)], [np.ones((5, 60))], k)
    assert book.tolist() == [0.9] * k
    count = np.bincount(index.ravel(), minlength=k)
    assert len(count) == k and count.max() - count.min() <= 1, "dealt out evenly"
    assert k == 1 or (index != index[0]).any(0).mean() > 0.5, "not the same in every neuron"


def test_the_copies_are_of_what_many_synapses_share(module: Any) -> None:
    decay = np.full((4, 25), 0.9)
    decay[0, :10] = 0.5
    book, (index,) = module.start([decay], [decay], 5)
    assert book.tolist() == [0.5, 0.9, 0.9, 0.9, 0.9], "copies of the larger cluster"
    np.testing.assert_array_equal(book[index], decay)


def test_the_ends_are_kept(module: Any) -> None:
    rng = np.random.default_rng(0)
    decay = rng.uniform(0.1, 0.99, (6, 8))
    decay[0] = 0.0
    decay[1, :4] = 1.0
    book, (index,) = module.start([decay], [np.ones((6, 8))], 4)
    assert book[0] == 0 and book[-1] == 1 and len(book) == 4
    for end in (0.0, 1.0):
        np.testing.assert_array_equal(book[index] == end, decay == end, err_msg="r = 0 and r = 1 stay")
    with pytest.raises(ValueError, match=r"clusters: expected .* at least 3 here \(r = 0 and r = 1 are kept\), got 2"):
        module.start([decay], [decay], 2)


def test_more_decays_than_synapses_are_refused(module: Any) -> None:
    with pytest.raises(ValueError, match="clusters: expected at most 6, as many as there are synapses, got 7"):
        module.start([np.full((2, 3), 0.5)], [np.ones((2, 3))], 7)
    book, _ = module.start([np.full((2, 3), 0.5)], [np.ones((2, 3))], 6)
    assert len(book) == 6


def test_absent_synapses_have_no_say_and_the_nearest_decay(module: Any) -> None:
    rng = np.random.default_rng(1)
    decay, weight, mask = rng.uniform(0.1, 0.8, (7, 11)), rng.normal(size=(7, 11)), rng.random((7, 11)) < 0.4
    decay[~mask] = rng.uniform(0.85, 1.0, (~mask).sum())  # far from all that are there
    book, (index,) = module.start([decay], [weight], 5, masks=[mask])
    alone, (of_these,) = module.start([decay[mask]], [weight[mask]], 5)
    np.testing.assert_array_equal(book, alone, err_msg="as if there were no others")
    np.testing.assert_array_equal(index[mask], of_these)
    assert (index[~mask] == 4).all(), "the last one is the nearest to each"
    few, (index,) = module.start([decay], [weight], int(mask.sum()), masks=[mask])
    np.testing.assert_array_equal(few[index[mask]], decay[mask], err_msg="as many as there are synapses: their own")
    message = f"clusters: expected at most {mask.sum()}, as many as there are synapses, got {mask.sum() + 1}"
    with pytest.raises(ValueError, match=message):
        module.start([decay], [weight], int(mask.sum()) + 1, masks=[mask])


# ---- planted bugs ------------------------------------------------------------------------------------------------


class Bug(NamedTuple):
    """In codebook.py `old` becomes `new`; `check` must then fail with an error that says `says`."""

    name: str
    old: str
    new: str
    check: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    says: str = ""
    error: type[BaseException] = AssertionError


BUGS = [
    Bug(
        "weights do not count",
        "np.bincount(index.ravel(), weight)",
        "np.bincount(index.ravel(), 0 * weight + 1)",
        test_no_assignment_is_better,
        (),
        says="as good as the best assignment",
    ),
    Bug(
        "the longest last cluster",
        "starts.append(total.argmin(0))",
        "starts.append(np.isfinite(total).argmax(0))",
        test_no_assignment_is_better,
        (),
        says="as good as the best assignment",
    ),
    Bug(
        "one cut too few",
        "for _ in range(min(most, n)):",
        "for _ in range(min(most, n) - 1):",
        test_as_many_clusters_as_points_lose_nothing,
        (),
        says="Right contains one more item: 3",
    ),
    Bug(
        "bins have no weight",
        "moment[total > 0] / total[total > 0], total[total > 0]",
        "moment[total > 0] / total[total > 0], 1.0 * total[total > 0] ** 0",
        test_many_points_are_clustered_as_well_as_many_starts_find,
        (),
        says="as good as many starts",
    ),
    Bug(
        "decays themselves are the scale",
        "s * r ** (s - 1.0)",
        "1.0 + 0 * s",
        test_places_are_as_far_apart_as_responses,
        (30,),
        says="energy",
    ),
    Bug(
        "runs without end",
        "min(steps, LONGEST)",
        "LONGEST",
        test_places_are_as_far_apart_as_responses,
        (30,),
        says="energy",
    ),
    Bug(
        "the start is not weighted",
        "weight * weight",
        "weight**0",
        test_many_decays_become_the_best_ones_weighted_by_the_square_of_the_weight,
        says="the weighted mean of its synapses",
    ),
    Bug(
        "one copy has them all",
        "turn % copies[index]",
        "0 * turn",
        test_one_decay_of_many_synapses_is_there_k_times,
        (7,),
        says="dealt out evenly",
    ),
    Bug(
        "dealt in turns",
        "np.random.default_rng(0).permutation(index.size)",
        "np.arange(index.size)",
        test_one_decay_of_many_synapses_is_there_k_times,
        (12,),
        says="not the same in every neuron",
    ),
    Bug(
        "copies of the first",
        "(count / copies).argmax()",
        "0",
        test_the_copies_are_of_what_many_synapses_share,
        says="copies of the larger cluster",
    ),
    Bug(
        "absent synapses count",
        "np.unique(present), Scale(RUN)",
        "np.unique(flat), Scale(RUN)",
        test_absent_synapses_have_no_say_and_the_nearest_decay,
        says="their own",
    ),
    Bug(
        "absent synapses have the first decay",
        "book[scale.nearest(flat, book)]",
        "book[0 * scale.nearest(flat, book)]",
        test_absent_synapses_have_no_say_and_the_nearest_decay,
        says="the last one is the nearest to each",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    with planted(codebook.__name__, bug.old, bug.new) as module, caught(bug.says, bug.error):
        bug.check(module, *bug.arguments)
