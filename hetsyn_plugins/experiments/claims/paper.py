"""The paper's numbers, once: Deng et al., "HetSyn: Versatile Timescale Integration in Spiking Neural Networks via
Heterogeneous Synapses", NeurIPS 2025, arXiv 2508.11644. Accuracies and shares in per cent, time constants in ms.
"""

from __future__ import annotations

from typing import NamedTuple


class Reported(NamedTuple):
    """An accuracy that the paper reports, and of what."""

    percent: float
    source: str


class Table4Column(NamedTuple):
    """A column of Table 4: time constants after training, and the accuracy with and without the long ones."""

    cue: float
    noise: float
    long: float
    accuracy: float
    accuracy_after_reset: float


FROZEN = Reported(100.0, "delayed match-to-sample, R-HetSynLIF with 80 % of its taus frozen")
DELAY = Reported(100.0, "delayed match-to-sample, R-HetSynLIF at a delay of 2500 ms")
NOISE = Reported(80.0, "delayed match-to-sample, R-HetSynLIF with the noise group at 20 Hz: nearly so much")
SHD = Reported(92.36, "Spiking Heidelberg Digits, R-HetSynLIF: one seed, the best epoch on the test set")
S_MNIST = Reported(98.93, "S-MNIST, R-HetSynLIF: read from the output neurons' spike counts")

CORTEX = (  # what it compares learned time constants with; it gives no figures of the fit
    "decay constants of cortical synapses are log-normal with a tail past 500 ms (Allen Institute for Brain Science, "
    "Synaptic Physiology, 194 human and 1,213 mouse pairs: portal.brain-map.org/connectivity/synaptic-physiology)"
)
CORTEX_TAIL = 0.5  # seconds

SUCCESS = 90.0  # accuracy of what the paper calls a successful run of delayed match-to-sample
SMALLEST = 5  # hidden neurons with which HetSynLIF still succeeds most often of the four variants
ORDER = ("hetsyn", "hetneu", "alif", "homneu")  # of accuracy on the Spiking Heidelberg Digits, best first
DELETION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)  # chances of a spike to be deleted at test time
WARP = 0.5  # spike times are scaled by 2^U(-0.5, 0.5) at test time

TABLE4 = {  # by the mean of the taus at the start, ms; their s.d. is a tenth of it
    100: Table4Column(154.38, 85.59, 5.25, 99.97, 75.68),
    200: Table4Column(252.43, 181.93, 6.05, 100.00, 76.47),
    400: Table4Column(430.70, 382.29, 5.80, 99.87, 77.15),
}
