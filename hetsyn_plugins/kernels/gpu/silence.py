"""Sources that are silent: where, for gradients that skip them, and when that pays; Triton.

A gradient's program needs its sums, half of its multiply-adds, only at steps at which a source of its tile is active.
So it looks at one bit: `words` (B, tiles of sources, 32 steps a word), which `activity` packs from s. Skipping takes
tiles of few sources, 8 x 128 synapses, and where little is silent these are slower than the dense ones of 32 x 32.

Both give the same bits: a synapse's sums are made in the same order of rows and steps, and what is left out are
additions of zero. So the choice may depend on how fast host and device run, and it does, since nothing here waits for
the device: how much was active is counted now and then, copied to the host behind the kernels, and used from the call
on that finds it there. Until then, and for what was not looked at before a CUDA graph is captured: dense.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from hetsyn_plugins.kernels.gpu.launch import HAS_STAGES, cells, kernel, launch, staged_range

TILE_J, TILE = 8, 128  # sources and neurons of a program that skips
TILES = 32  # of sources, of a program that looks at them
STEPS = 32  # bits of a word
PAYS = 0.25  # prototypes on an H100: up to this share of active steps of tiles, at 2 and 3 % of sources that are active
LEAST = 2**29  # synapse-steps; with fewer there is nothing to gain but the time of one launch
EVERY = 64  # calls from one look to the next
MAX_TILES = 65_535  # of sources: the grid's second dimension

if HAS_STAGES:
    range = staged_range


# ---- where sources are active


@kernel
def activity(s, words, counts, T, B, M, STEPS: tl.constexpr, TILES: tl.constexpr, TILE_J: tl.constexpr):
    """Bit t % 32 of words[b, tile, t // 32]: is a source of the tile active at t in row b? counts: how many bits are 1.

    s (T, B, M); words and counts are (B, tiles, words).
    """
    n_words, tiles = tl.cdiv(T, STEPS), tl.cdiv(M, TILE_J)
    b, k = (tl.program_id(0) // n_words).to(tl.int64), tl.program_id(0) % n_words
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    j = tl.expand_dims(tile, 1) * TILE_J + tl.expand_dims(tl.arange(0, TILE_J), 0)
    word, count, none = tile * 0, tile * 0, j * 0  # Triton 2's interpreter makes no integer zeros
    for bit in range(0, STEPS, num_stages=4):
        t = k * STEPS + bit
        x = tl.load(s + (t * B.to(tl.int64) + b) * M + j, mask=(j < M) & (t < T), other=0.0)
        is_active = tl.max(tl.where(x != 0.0, none + 1, none), 1)
        word = word | (is_active << bit)
        count += is_active
    at = (b * tiles + tile) * n_words + k
    tl.store(words + at, word, mask=tile < tiles)
    tl.store(counts + at, count, mask=tile < tiles)


class Activity(NamedTuple):
    """words (B, tiles of sources, 32 steps a word), and how many bits of each are set; int32."""

    words: Tensor
    counts: Tensor


def activity_of(s: Tensor) -> Activity:
    """When the tiles of the sources s (T, B, M) are active."""
    steps, batch, m = s.shape
    tiles, n_words = cells(m, TILE_J), cells(steps, STEPS)
    words = s.new_empty((batch, tiles, n_words), dtype=torch.int32)
    counts = torch.empty_like(words)
    grid, options = (batch * n_words, cells(tiles, TILES), 1), {"STEPS": STEPS, "TILES": TILES, "TILE_J": TILE_J}
    launch(activity, grid, s, words, counts, steps, batch, m, **options, num_warps=4)
    return Activity(words, counts)


# ---- when skipping them pays


class Looks:
    """At how active the sources of layers of one size on one device are: the last one's result, and the next."""

    def __init__(self) -> None:
        self.pays = False
        self.calls = 0
        self.most: int | None = None  # the bits of a look whose count is on its way
        self.count = torch.zeros((), dtype=torch.int64, device="cpu", pin_memory=torch.cuda.is_available())
        self.arrived = torch.cuda.Event()

    def words(self, s: Tensor) -> Tensor | None:
        """Of s (T, B, M) if, by the last look, it pays to skip; takes a look, if it is time for one."""
        if self.most is not None and self.arrived.query():
            self.pays = int(self.count) <= PAYS * self.most
            self.most = None
        is_time, self.calls = self.most is None and self.calls % EVERY == 0, self.calls + 1
        if not (is_time or self.pays):
            return None
        words, counts = activity_of(s)
        if is_time:
            self.most = words.shape[0] * words.shape[1] * s.shape[0]
            self.count.copy_(counts.sum(), non_blocking=True)
            self.arrived.record()
        return words if self.pays else None


_LOOKS: dict[tuple[torch.device, int, int], Looks] = {}


def words_if_it_pays(s: Tensor, g: Tensor) -> Tensor | None:
    """`Activity.words` of s (T, B, M) if gradients with g (T, B, N) had better skip what is silent; else None."""
    if not could_pay(s, g):
        return None
    key = (s.device, s.shape[2], g.shape[2])
    looks = _LOOKS.get(key)
    if torch.cuda.is_current_stream_capturing():  # which an event that is asked for, or memory of the host, would end
        return activity_of(s).words if looks is not None and looks.pays else None
    if looks is None:
        looks = _LOOKS[key] = Looks()
    return looks.words(s)


def forget() -> None:
    """All that was seen."""
    _LOOKS.clear()


def can_skip(s: Tensor, g: Tensor) -> bool:
    """Do the tiles that skip fit these shapes? Neurons are taken by fours, which lie at a multiple of 16 bytes."""
    aligned = g.shape[2] % 4 == 0 and g.data_ptr() % 16 == 0
    return HAS_STAGES and aligned and cells(s.shape[2], TILE_J) <= MAX_TILES


def could_pay(s: Tensor, g: Tensor) -> bool:
    """Is there so much to do that skipping could pay, in tiles that are full of neurons or nearly so?"""
    (steps, batch, m), n = s.shape, g.shape[2]
    full = 8 * n >= 7 * TILE * cells(n, TILE)
    return s.is_cuda and steps * batch * m * n >= LEAST and full and can_skip(s, g)
