"""Training one network with one seed: the loop, its checkpoints and its log.

A run can be killed at any moment and goes on from its last checkpoint to the same bits (with the same number of threads
on a CPU, the same card and versions on a card): batches are pure functions of (seed, iteration), torch's generators are
seeded anew at every iteration, the learning rate is a function of the iteration, and the checkpoint holds the rest,
written so that it is never half there.
"""

from __future__ import annotations

import math
import platform
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hetsyn_plugins._version import __version__
from hetsyn_plugins.core.fields import SYNAPTIC
from hetsyn_plugins.core.files import clear
from hetsyn_plugins.core.locks import locked
from hetsyn_plugins.core.memory import of_process
from hetsyn_plugins.core.network import Network
from hetsyn_plugins.exchange import checkpoint
from hetsyn_plugins.experiments import ranks, training_state, variants
from hetsyn_plugins.experiments.affordable import check_costs, spending
from hetsyn_plugins.experiments.batches import OnCard, moved, prepared
from hetsyn_plugins.experiments.config import MOST_RATE, Config, TrainingConfig
from hetsyn_plugins.experiments.model import Model
from hetsyn_plugins.experiments.pruning import pruning_of
from hetsyn_plugins.experiments.run_folder import (
    FAILURE,
    NETWORK,
    RESULT,
    START,
    STATE,
    Failure,
    SeedResult,
    load_result,
    write_content,
)
from hetsyn_plugins.experiments.tasks.task import (
    AT_A_TIME,
    DRAWN_EPOCH,
    AnyBatch,
    Task,
    checked_batch,
    checked_loss,
    checked_score,
    each_part,
    run_on,
)
from hetsyn_plugins.experiments.training_log import Log
from hetsyn_plugins.experiments.training_state import Best, Progress, Run
from hetsyn_plugins.experiments.widening import widened, widening_of
from hetsyn_plugins.ops import devices
from hetsyn_plugins.ops.pruning import density_of, prune_
from hetsyn_plugins.ops.rates import fault


class TrainingStopped(ArithmeticError):
    """The loss or a gradient is not finite, or the loss exploded; says at which iteration and in which layer."""


def train(
    config: Config,
    seed: int,
    folder: Path,
    *,
    quiet: bool = False,
    tensorboard: bool = False,
    despite_cost: bool = False,
) -> SeedResult:
    """Train, from the folder's last checkpoint if it has one, evaluate on the test set once, and return the result.

    Writes to `folder`: start.safetensors and network.safetensors (before and after), log.jsonl and log.csv,
    state.safetensors (the checkpoint) and the one before it, result.json. A folder with a result is left as it is.

    despite_cost   train also where more is needed than there is (`affordable.check_costs`)

    Where several processes are ranks (`ranks`), each calls this: they train one network, the first writes.

    Raises TrainingStopped, after writing why to failure.json; the last good checkpoint stays. ValueError where another
    process trains in this folder, or for a configuration that cannot be; OutOfMemory where memory runs out.
    """
    here = ranks.current()
    done = is_done(folder)
    if not done:
        devices.usable("training.device", config.training.device)
    if not (despite_cost or done):
        check_costs(of_a_rank(config))
    check_shares(config)
    if here.is_first:
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if here.is_first else nullcontext():
        return _train(config, seed, folder, quiet or not here.is_first, tensorboard)


def check_shares(config: Config) -> None:
    """Raise ValueError where one of several ranks has no sample of a training batch, or no card of its own."""
    size = ranks.current().size
    if size > 1:
        ranks.check_cards("training.device", config.training.device)
        ranks.check_rows("training.batch", config.task.smallest(config.training.batch), size)


def of_a_rank(config: Config) -> Config:
    """The configuration of as many samples as a rank has, at most, for what that costs."""
    batch = -(-config.training.batch // ranks.current().size)
    return replace(config, training=replace(config.training, batch=batch))


def is_done(folder: Path) -> bool:
    """Has this seed's folder a result, as the first rank sees it?"""
    return ranks.current().from_first((folder / RESULT).exists)


def _train(config: Config, seed: int, folder: Path, quiet: bool, tensorboard: bool) -> SeedResult:
    here = ranks.current()
    if is_done(folder):
        return here.from_first(lambda: load_result(folder))
    if here.is_first:
        (folder / FAILURE).unlink(missing_ok=True)
        clear(folder)
    torch.set_num_threads(config.training.threads)
    with spending(config, "building the network"):
        trainer = Trainer(config, seed, folder, tensorboard)
    try:
        with spending(config, "making training batches"):  # what is not told inside
            trainer.go(quiet)
    except TrainingStopped as stopped:
        if here.is_first:
            write_content(folder / FAILURE, Failure(trainer.iteration, str(stopped)))
        raise
    with spending(config, "final evaluation"):
        return trainer.finish()


class Trainer:
    """A network on its way: what a checkpoint holds, and what can be made again from the configuration."""

    def __init__(self, config: Config, seed: int, folder: Path, tensorboard: bool = False) -> None:
        self.config, self.seed, self.folder = config, seed, folder
        self.ranks = ranks.current()
        settings, task = config.training, config.task
        self.device = devices.usable("training.device", settings.device)
        self.start = variants.build_for(task, config.network, seed)
        self.model = model_of(self.start, config, batch_norm=config.network.batch_norm)
        self.widening = widening_of(config)
        if self.widening.sigma and not any(True for _ in self.model.delays()):
            what = "0 without delays that are trained (network.max_delay)"
            raise ValueError(f"training.delay_sigma: expected {what}, got {self.widening.sigma}")
        self.pruning = pruning_of(config)
        if self.pruning:
            prune_(self.model, 1.0)  # masks from the start on, which are all there: the state of a run has them
        self.frozen = frozen_decays(self.model, config.network.frozen, seed)
        self.optimiser = make_optimiser(self.model, settings)
        if settings.select == "best_validation" and next(iter(task.held_out("validation", 1, seed)), None) is None:
            raise ValueError("training.select: expected 'last' without validation samples, got 'best_validation'")
        self.on_card = None if self.device.type == "cpu" else OnCard(task, self.device)
        self.judged_by: Task | OnCard = self.on_card or task
        self.label_count = task.label_count
        self.per_epoch = task.batches(settings.batch)
        self.total = settings.iterations or settings.epochs * self.per_epoch
        self.validate_every = settings.validate_every or (DRAWN_EPOCH if task.drawn else self.per_epoch)
        self.checkpoint_every = settings.checkpoint_every or self.validate_every
        self.iteration, self.seconds = 0, 0.0
        self.saved: int | None = None  # the iteration of the last checkpoint
        self.first_loss: float | None = None
        self.validation_loss: float | None = None  # of the last validation
        self.told: set[str] = set()  # layers of which was said that they do not fire, or always
        self.best: Best | None = None  # the network that `select` would keep
        self.run = Run(seed, self.total, settings.select != "last", bool(self.pruning), self.model, self.optimiser)
        if (progress := self._load()) is not None:
            self.iteration, self.seconds, self.first_loss, self.best = progress
            self.best = self.best if self.is_pruned() else None  # one of a training that was not to prune, and is now
            self.saved = self.iteration
        elif self.ranks.is_first:
            checkpoint.save(self.start, folder / START)
        self.together = self.ranks.together(self.model)
        self.log = Log(folder, self.iteration, tensorboard) if self.ranks.is_first else None

    def go(self, quiet: bool) -> None:
        """Train to the end."""
        started, before, task = time.perf_counter(), self.seconds, self.config.task
        asked = (self.config.training, self.seed, self.iteration, self.total)
        coming = self.on_card.training(*asked) if self.on_card else prepared(task, *asked)
        batches = tqdm(
            () if self.has_settled() else coming,
            desc=f"seed {self.seed}", initial=self.iteration, total=self.total, disable=quiet, unit="it",
        )  # fmt: skip
        shown: dict[str, str] = {}
        try:
            for batch in batches:
                if self.iteration == 0:
                    checked_batch(batch, self.label_count)  # a task that is wrong is told of its training batches first
                    self._write_start()
                with spending(self.config, "training step"):
                    loss, score, rate = self.step(batch)
                self.iteration += 1
                self.prune()
                last = self.iteration == self.total
                validation = self.validate() if last or self.iteration % self.validate_every == 0 else None
                last = last or self.has_settled()
                self.seconds = before + time.perf_counter() - started
                logged = self.iteration == 1 or self.iteration % self.config.training.log_every == 0
                if last or validation is not None or logged:
                    self._write(loss, score, validation, rate)
                    shown |= {"loss": f"{loss:.3g}", self.config.task.measure: f"{score:.3g}"}
                    shown |= {} if validation is None else {"validation": f"{validation:.3g}"}
                    batches.set_postfix(shown)
                if last or self.iteration % self.checkpoint_every == 0:
                    self._save()
                if last:
                    break
        finally:
            batches.close()
            if self.log is not None:
                self.log.close()

    def step(self, batch: AnyBatch) -> tuple[float, float, float]:
        """One optimiser step on a whole batch, of which a rank takes its rows.

        Returns the loss and score of the batch before it, and the rate (of the schedule) it took.
        """
        settings, task = self.config.training, self.config.task
        torch.manual_seed(np.random.SeedSequence([self.seed, self.iteration]).generate_state(1)[0].item())
        rate = schedule(settings, self.iteration, self.per_epoch, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * rate
        share = self.ranks.share(checked_batch(batch, self.label_count).inputs.shape[1])
        self.model.train()
        here = moved(each_part(batch, share.rows), self.device)
        target = here.target
        self.optimiser.zero_grad()
        with widened(self.model, self.widening.at(self.iteration), self.seed, self.iteration):
            activity = run_on(here, self.together, share)
            loss = checked_loss(task.loss, activity, target)
            self.ranks.for_average(loss, share).backward()
        # before it is clipped: clipping would spread what is not finite to all layers
        norms = torch.stack([p.grad.norm() for p in self.model.parameters() if p.grad is not None])
        with torch.no_grad():
            of_all = self.ranks.mean([loss, checked_score(task.score, activity, target).mean()], share)
            value, score, norm = numbers(*of_all, norms.norm())
        self.first_loss = value if self.first_loss is None else self.first_loss
        exploded = value > settings.explosion * max(abs(self.first_loss), 1.0)
        if exploded or not math.isfinite(value) or not math.isfinite(norm):
            raise TrainingStopped(self._why(value, norm, activity.readout))
        if settings.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimiser.step()
        self.model.clamp_()
        self.frozen.restore()
        return value, score, rate * settings.lr

    def prune(self) -> None:
        """Take synapses out, where that is due after this iteration."""
        if self.iteration in self.pruning:
            prune_(self.model, self.pruning[self.iteration], self.config.training.prune_by)

    def is_pruned(self) -> bool:
        """Is all done that there is to prune? Networks before that are not what was asked for."""
        return self.iteration >= max(self.pruning, default=0)

    @property
    def density(self) -> float | None:
        """What part of the synapses is there; None where nothing was pruned yet."""
        return density_of(self.model) if self.pruning and self.iteration >= min(self.pruning) else None

    def validate(self) -> float | None:
        """The measure on the validation split; the best network so far is kept, where one is to be selected."""
        select, task = self.config.training.select, self.config.task
        found: dict[str, set[str | None]] = {}
        losses: list[float] = []
        with spending(self.config, "validation"):
            validation = evaluate(self.model, self.judged_by, "validation", self.seed, found, losses)
        self.validation_loss = math.fsum(losses) / len(losses) if losses else None
        if self.ranks.is_first:
            self._tell(found)
        if select != "last" and self.is_pruned():
            judged = validation if select == "best_validation" else evaluate_test(self.model, self.judged_by, self.seed)
            assert judged is not None  # refused at the start
            merit = judged if task.measure == "accuracy" else -judged
            if self.best is None or merit > self.best.merit:
                weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                self.best = Best(merit, self.iteration, weights)
        return validation

    def has_settled(self) -> bool:
        """Did validation not become better for as long as is waited?"""
        waited = self.config.training.patience * self.validate_every
        return self.best is not None and 0 < waited <= self.iteration - self.best.iteration

    def _tell(self, found: Mapping[str, set[str | None]]) -> None:
        """Say once of a layer that it was silent, or fired at every step, in all of the validation set."""
        for name, faults in found.items():
            if len(faults) == 1 and name not in self.told and (what := next(iter(faults))) is not None:
                self.told.add(name)
                where = f"iteration {self.iteration}: layer {name!r} {what} in the validation set"
                warnings.warn(f"{where}; try another network.tau_start, or inputs of another rate", stacklevel=2)

    def finish(self) -> SeedResult:
        """Take the selected network, run it on the test set, write both down."""
        selected = self.iteration
        if self.best is not None:
            self.model.load_state_dict(self.best.model)
            selected = self.best.iteration
        task = self.config.task
        validation = evaluate(self.model, self.judged_by, "validation", self.seed)
        test = evaluate_test(self.model, self.judged_by, self.seed)
        result = SeedResult(
            seed=self.seed,
            measure=task.measure,
            validation=validation,
            test=test,
            iterations=self.iteration,
            selected_iteration=selected,
            select=self.config.training.select,
            seconds=round(self.seconds, 2),
            peak_memory_mb=peak_memory(),
            threads=self.config.training.threads,
            framework=self.config.framework,
            parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            density=self.density,
            versions=versions(),
            device=devices.described(self.device),
            peak_card_memory_mb=devices.peak_megabytes(self.device),
        )
        if self.ranks.is_first:
            checkpoint.save(self.model.to_network(), self.folder / NETWORK)
            write_content(self.folder / RESULT, result)
        return result

    def _write_start(self) -> None:
        """Log the network as it is before it is trained."""
        losses: list[float] = []
        with spending(self.config, "validation"):
            validation = evaluate(self.model, self.judged_by, "validation", self.seed, None, losses)
        self.validation_loss = math.fsum(losses) / len(losses) if losses else None
        rate = schedule(self.config.training, 0, self.per_epoch, self.total) * self.config.training.lr
        self._write(None, None, validation, rate)

    def _write(self, loss: float | None, score: float | None, validation: float | None, rate: float) -> None:
        if self.log is not None:
            epoch = self.iteration / self.per_epoch
            of_validation = None if validation is None else self.validation_loss
            values = (loss, score, validation, of_validation, rate, self.density)
            self.log.write(self.iteration, epoch, *values, self.seconds)

    def _save(self) -> None:
        assert self.first_loss is not None  # a step was made
        progress = Progress(self.iteration, self.seconds, self.first_loss, self.best)
        if self.ranks.is_first:
            with spending(self.config, "checkpoint"):
                training_state.save(self.folder, progress, self.run)
        self.saved = self.iteration

    def _load(self) -> Progress | None:
        """What the first rank finds in the folder; all ranks go on from there."""
        progress = self.ranks.from_first(lambda: training_state.load(self.folder, self.run))
        if progress is not None and self.ranks.size > 1:
            state = self.ranks.from_first(lambda: (self.model.state_dict(), self.optimiser.state_dict()))
            self.model.load_state_dict(state[0])
            self.optimiser.load_state_dict(state[1])
        return progress

    def _why(self, loss: float, norm: float, readout: Tensor) -> str:
        """At which iteration, in which layer, and where the last good checkpoint is."""
        good = "none yet" if self.saved is None else f"of iteration {self.saved}, {self.folder / STATE}"
        what = f"the loss is {loss:.4g} (it was {self.first_loss:.4g} at first), the gradient's norm {norm:.4g}"
        return f"iteration {self.iteration + 1}: {what}: {culprit(self.model, readout)}; last good checkpoint: {good}"


@dataclass(frozen=True)
class Frozen:
    """Decays that stay as they start: tensors, masks of what stays, and the values."""

    held: list[tuple[nn.Parameter, Tensor, Tensor]]

    def restore(self) -> None:
        """Undo what an optimiser did to them beside their gradient, which is zero (weight decay)."""
        with torch.no_grad():
            for tensor, mask, start in self.held:
                tensor.copy_(torch.where(mask, start, tensor))


def frozen_decays(model: Model, share: float, seed: int) -> Frozen:
    """Freeze this share of the taus of every layer's synapses, drawn from the seed; their gradients become zero."""
    rng, held = variants.stream(seed, "frozen"), []
    for _, field, tensor in model.decays() if share else ():
        if field in SYNAPTIC:
            count = round(share * tensor.numel())
            mask = np.zeros(tensor.numel(), bool)
            mask[rng.permutation(tensor.numel())[:count]] = True
            stays = torch.from_numpy(mask.reshape(tuple(tensor.shape))).to(tensor.device)
            tensor.register_hook(lambda gradient, stays=stays: gradient.masked_fill(stays, 0.0))
            held.append((tensor, stays, tensor.detach().clone()))
    return Frozen(held)


def model_of(network: Network, config: Config, *, batch_norm: bool = False) -> Model:
    """A network in the framework of a configuration, on its device; as it was trained, or as it is stored."""
    device = devices.usable("training.device", config.training.device)
    one = config.network.variant == "single_tau" and not config.network.builder
    quantised = config.network.quantised
    return Model(network, config.framework, quantised=quantised, one_decay=one, batch_norm=batch_norm).to(device)


def make_optimiser(model: Model, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over weights, what stands for decays, delays; "base" is a group's rate before the schedule."""
    decays, delays = [tensor for _, _, tensor in model.decays()], list(model.delays())
    known = {id(tensor) for tensor in (*decays, *delays)}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    decay_rate = settings.decay_lr or settings.lr
    groups = [
        {"params": weights, "lr": settings.lr, "base": settings.lr, "weight_decay": settings.weight_decay},
        {"params": decays, "lr": decay_rate, "base": decay_rate, "weight_decay": settings.decay_weight_decay},
        {"params": delays, "lr": settings.delay_lr, "base": settings.delay_lr, "weight_decay": 0.0},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
    return kind([group for group in groups if group["params"]])


def schedule(settings: TrainingConfig, iteration: int, per_epoch: int, total: int) -> float:
    """What the learning rates are multiplied by at an iteration (from 0)."""
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return _power(settings.schedule_factor, iteration // settings.schedule_every)
    span = settings.schedule_span * per_epoch or total
    warm = settings.warmup * span
    if iteration < warm:
        return (iteration + 1) / (math.floor(warm) + 1)
    along = min((iteration - warm) / max(span - warm, 1), 1.0)
    return settings.schedule_floor + (1 - settings.schedule_floor) * 0.5 * (1 + math.cos(math.pi * along))


def _power(factor: float, times: int) -> float:
    """A factor that grows, grows to MOST_RATE: more is no number of float32 with rates and weights."""
    try:
        return min(factor**times, MOST_RATE)
    except OverflowError:
        return MOST_RATE


@torch.no_grad()
def evaluate(
    model: Model,
    task: Task | OnCard,
    split: str,
    seed: int,
    found: dict[str, set[str | None]] | None = None,
    losses: list[float] | None = None,
) -> float | None:
    """The mean score over all samples of "validation" or "test"; None where there are none.

    found   gets what is wrong with the spikes of each hidden layer (`ops.rates.fault`), of every batch
    losses  gets the loss of every sample's batch

    Ranks take the batches in turn, and all return the same.
    """
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    here, judged = ranks.current(), []
    labels = task.label_count
    batches = (checked_batch(batch, labels) for batch in task.held_out(split, AT_A_TIME, seed))
    for batch in islice(batches, here.index, None, here.size):
        part = moved(batch, device)
        activity = run_on(part, model)
        faults = [] if found is None else [fault(spikes, part.lengths) for spikes in activity.spikes]
        score = checked_score(task.score, activity, part.target).cpu()
        with ranks.apart():
            loss = [] if losses is None else numbers(checked_loss(task.loss, activity, part.target)) * len(score)
        judged.append((score, faults, loss))
    scores = []
    for score, faults, loss in here.in_turn(judged):
        scores.append(score)
        if losses is not None:
            losses += loss
        if found is not None:
            for name, what in zip(model.spiking, faults, strict=True):
                found.setdefault(name, set()).add(what)
    return numbers(torch.cat(scores).double().mean())[0] if scores else None


def numbers(*values: Tensor) -> list[float]:
    """The numbers of tensors (), all of them read off their device at once: this is what a step waits for."""
    return list(torch.stack([value.detach().double() for value in values]).tolist())


def evaluate_test(model: Model, task: Task | OnCard, seed: int) -> float:
    """`evaluate` on the test set. Raises ValueError where it has no samples."""
    measure = evaluate(model, task, "test", seed)
    if measure is None:
        raise ValueError("task: expected a test set with samples, got none")
    return measure


def evaluate_network(network: Network, config: Config, seed: int, task: Task | None = None) -> float:
    """The measure of a network on the test set of its task, or of the same task under other settings."""
    torch.set_num_threads(config.training.threads)
    return evaluate_test(model_of(network, config), task or config.task, seed)


def culprit(model: Model, readout: Tensor) -> str:
    """The layer that a broken step is to be looked for in: not finite itself, else the largest gradient."""
    for what in ("value", "gradient"):
        for name, p in model.named_parameters():
            tensor = p if what == "value" else p.grad
            if tensor is not None and not bool(tensor.isfinite().all()):
                also = "" if bool(readout.isfinite().all()) else ", and v of the readout is not finite"
                return f"the {what} of {name.rpartition('.')[2]} in layer {model.layer_of(name)!r} is not finite{also}"
    name, _ = max(((n, p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None), key=lambda x: x[1])
    return f"the largest gradient is {name.rpartition('.')[2]}'s in layer {model.layer_of(name)!r}"


def peak_memory() -> float:
    """The largest resident set of this process so far, in MB."""
    peak = of_process("VmHWM")
    if peak is not None:  # Linux, whose other number may begin with that of the process which started this one
        return round(peak / 1e6, 1)
    try:
        import resource
    except ImportError:  # not a Unix: nobody says
        return 0.0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6, 1)


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    numbers = {"python": platform.python_version(), "hetsyn_plugins": __version__}
    for name in ("torch", "numpy", "numba", "snntorch", "norse", "lava-dl"):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers
