"""A search without Ray: the real searcher, recorder and ledger, driven as Ray would, with any number of slots."""

import math
import random
from dataclasses import dataclass

from ray.tune.search import Searcher

from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.searcher import JobSearch

SMALL = ("architectures=[resnet8]", "train.epochs=9", "asha.grace_epochs=1", "asha.protect_top=1")
CLOCKS = ("started_at", "finished_at", "reported_at", "happened_at")


def small_job(*sets):
    return load_job("digits", [*SMALL, *sets])


def chance(*key):
    """A number in [0, 1) that depends on the key only."""
    return random.Random(repr(key)).random()


@dataclass(frozen=True)
class Trials:
    """How trials train: what they report is a function of their parameters, their ids and the seed."""

    seed: int = 0
    diverging: float = 0.0  # chance at each epoch
    failing: float = 0.0  # chance before each epoch, other at each try
    sign: int = 1  # -1: what a task reports as its `score` is lower for better trials

    def value(self, trial_id, params, epoch):
        off = (math.log10(params.get("lr", 0.003)) + 2.5) ** 2 + (params.get("q_p", 0.8) - 0.8) ** 2
        off += (math.log10(params.get("rho", 0.1)) + 1) ** 2
        # rounded, so that some are equal
        return round(0.9 * math.exp(-off) * (1 - 0.5**epoch) + 0.1 * chance(self.seed, trial_id, epoch), 2)

    def row(self, trial_id, params, epoch, fork=0):
        diverged = chance("diverges", self.seed, trial_id, epoch) < self.diverging
        value = None if diverged else self.value(trial_id, params, epoch)
        return {
            "epoch": epoch, "val_accuracy": value, "val_loss": None if diverged else 1 - value,
            "metrics": {} if diverged else {"score": self.sign * value},
            "diverged": int(diverged), "gradient_evaluations": 10 * (epoch - fork), "train_s": 2.0 * (epoch - fork),
        }  # fmt: skip

    def fails(self, trial_id, epoch, retries):
        return chance("fails", self.seed, trial_id, epoch, retries) < self.failing


class Driver:
    """Slots that ask for trials and report, one after the other in an order drawn from `seed`."""

    def __init__(self, job, folder, trials=None, *, num_slots=1, seed=0, storage=None):
        known = (folder / "ledger.sqlite").exists()
        self.ledger = Ledger.open(folder) if known else Ledger.create(folder, job.model_dump(mode="json"), {})
        self.recorder = Recorder(job, self.ledger, SearchFolder(folder))
        self.search = JobSearch(job, self.recorder, storage)
        self.trials, self.num_slots = trials or Trials(), num_slots
        self.suggested, self.finished = [], False
        self._rng = random.Random(seed)
        self._slots = {}  # slot -> [ray_id, config, epochs trained]

    def run(self, max_steps=None):
        """Goes on until the search is over, or for a number of steps; then it can be left as if killed."""
        steps = 0
        while not (self.finished and not self._slots) and steps != max_steps:
            self.step()
            steps += 1
        return self

    def step(self):
        slot = self._rng.randrange(self.num_slots)
        if slot in self._slots:
            self._train(slot)
        elif not self.finished:
            self._begin(slot)

    def _begin(self, slot):
        ray_id = f"ray-{len(self.suggested)}"
        config = self.search.suggest(ray_id)
        if config == Searcher.FINISHED:
            self.finished = True  # Ray does not ask again
        elif config is not None:
            self.suggested.append(config)
            # its checkpoint is as old as the record, or older if one was lost
            epochs = max(self._fork(config), config["epoch"] - self._rng.choice([0, 0, 1]))
            self._slots[slot] = [ray_id, config, epochs]

    def _train(self, slot):
        ray_id, config, epochs = self._slots[slot]
        trial_id = config["trial_id"]
        trial = self.recorder.trials[trial_id]
        if self.trials.fails(trial_id, epochs + 1, trial.retries):
            self.recorder.fail(ray_id, f"Traceback\nValueError: at epoch {epochs + 1}")
            self.search.on_trial_complete(ray_id, error=True)
            del self._slots[slot]
            return
        self._slots[slot][2] += 1
        row = self.trials.row(trial_id, config["params"], epochs + 1, self._fork(config))
        decision = self.recorder.report(ray_id, row)
        if decision is None:
            return
        self.search.on_report(ray_id, row)
        if decision.action != "continue":
            self.search.on_trial_complete(ray_id, row)
            del self._slots[slot]

    def _fork(self, config):
        fork = self.recorder.trials[config["trial_id"]].fork
        return 0 if fork is None else fork.epoch

    def close(self):
        self.ledger.close()


def timeless(rows):
    """Rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]
