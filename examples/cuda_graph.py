"""A whole training step as one CUDA graph: recorded once, then replayed for every batch with a single launch.

Without a card the same step runs as it is, batch after batch.
"""

import time

import torch

from hetsyn_plugins.adapters.snntorch import HetSynLeaky, RHetSynLeaky

STEPS, BATCH, LINES, CLASSES = 100, 32, 40, 5
on_card = torch.cuda.is_available()
device = "cuda" if on_card else "cpu"


class Training:
    """A network, its optimiser, and one batch's place in memory, which a graph reads anew at every replay."""

    def __init__(self):
        torch.manual_seed(0)
        hidden = RHetSynLeaky(LINES, 64, init_hidden=True, input_rate=0.1)
        self.net = torch.nn.Sequential(hidden, HetSynLeaky(64, CLASSES, spiking=False, init_hidden=True)).to(device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=1e-3, capturable=on_card)
        self.inputs = torch.zeros(STEPS, BATCH, LINES, device=device)
        self.labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device)

    def step(self):
        self.optimiser.zero_grad()
        for layer in self.net:
            layer.reset_mem()
        loss = torch.nn.functional.cross_entropy(self.net(self.inputs)[-1], self.labels)
        loss.backward()
        self.optimiser.step()
        for layer in self.net:
            layer.clamp_()
        self.loss.copy_(loss.detach())

    def train(self, step, batches):
        """Seconds a batch, and the losses."""
        losses, start = [], time.perf_counter()
        for inputs, labels in batches:
            self.inputs.copy_(inputs)
            self.labels.copy_(labels)
            step()
            losses.append(self.loss.clone())  # no value is read here: that would wait for the card
        losses = torch.stack(losses).tolist()
        return (time.perf_counter() - start) / len(losses), losses


def recorded(training):
    """The step as a graph; some steps before it compile kernels and make the optimiser's state."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            training.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    training.optimiser.zero_grad()
    with torch.cuda.graph(graph):
        training.step()
    return graph.replay


generator = torch.Generator().manual_seed(1)
batches = []
for _ in range(20):
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    rates = 0.02 + 0.2 * torch.nn.functional.one_hot(labels, CLASSES).repeat_interleave(LINES // CLASSES, 1)
    batches.append((torch.rand(STEPS, BATCH, LINES, generator=generator).lt(rates).float(), labels))
batches = [(inputs.to(device), labels.to(device)) for inputs, labels in batches]

plain = Training()
for _ in range(3):
    plain.step()  # as many as `recorded` makes
seconds, losses = plain.train(plain.step, batches)
print(f"{device}: loss {losses[0]:.3f} to {losses[-1]:.3f}, {1e3 * seconds:.2f} ms a step")
if on_card:
    graphed = Training()
    seconds, replayed = graphed.train(recorded(graphed), batches)
    pairs = zip(plain.net.parameters(), graphed.net.parameters(), strict=True)
    furthest = max(float((a - b).detach().abs().max()) for a, b in pairs)
    print(f"as a graph: loss {replayed[0]:.3f} to {replayed[-1]:.3f}, {1e3 * seconds:.2f} ms a step")
    print(f"weights differ by at most {furthest:.1e}")
else:
    print("no CUDA device: nothing was recorded")
