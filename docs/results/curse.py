"""Prints the winner's curse of a search with finalists and without: `python docs/results/curse.py [DIR]`.

Without finalists: the value of the best single trial, less the mean of the same settings over all further seeds, which
chose nothing then. With finalists: each further seed is left out once; the mean over the others chooses the winner, as
`search.finalists` does, and the seed left out says what it reaches. All seeds are left out equally often, so how hard
their validation splits are does not count; in the first number, how hard that of the search is does. The second is 0
where the same trial wins whichever seed is left out: then the choice owes nothing to luck.
"""

import sys
from pathlib import Path
from statistics import fmean, stdev

from tune_jobs.results.finalists import Final
from tune_jobs.results.read import Results, read_results


def main() -> None:
    """Prints the lines."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("curse")
    print("\n".join(curse_lines(read_results(folder))))


def curse_lines(results: Results) -> list[str]:
    """Returns what each study's winner promised and what it reached, chosen in both ways."""
    lines = []
    for study, finalists in results.finals.items():
        n = len(finalists[0].values)
        lucky = next(final for final in finalists if final.rank == 1)
        error = stdev(lucky.values) / n**0.5
        lines.append(
            f"{study}, without finalists: {lucky.trial_id} promised {lucky.search_value:.4f} and reached "
            f"{lucky.mean:.4f} (standard error {error:.4f}, {n} seeds): winner's curse "
            f"{lucky.search_value - lucky.mean:+.4f}"
        )
        folds = [_fold(finalists, seed) for seed in range(n)]
        promised, reached = (fmean(values) for values in zip(*folds, strict=True))
        lines.append(
            f"{study}, with {len(finalists)} finalists: the winner by {n - 1} further seeds promised {promised:.4f} "
            f"and reached {reached:.4f} with the one left out: winner's curse {promised - reached:+.4f}"
        )
        excess = [final.search_value - final.mean for final in finalists]
        lines.append(
            f"{study}: over all finalists, value of the search less mean of further seeds: {fmean(excess):+.4f} on "
            f"average, from {min(excess):+.4f} to {max(excess):+.4f}; {finalists[0].trial_id} (rank "
            f"{finalists[0].rank} of the search) wins with {finalists[0].mean:.4f}"
        )
    return lines


def _fold(finalists: list[Final], left_out: int) -> tuple[float, float]:
    """Returns what the winner promises on all seeds but one, and what it reaches on that one."""

    def promise(final: Final) -> float:
        return fmean(value for seed, value in enumerate(final.values) if seed != left_out)

    winner = max(finalists, key=promise)
    return promise(winner), winner.values[left_out]


if __name__ == "__main__":
    main()
