"""Prints the winner's curse of a search with finalists and without: `python docs/results/curse.py [DIR]`.

Half of the finalists' seeds choose the winner, as `search.finalists` does; the other half, which chose nothing, say
what its settings really reach. The best single trial is held against the same seeds.
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
        half = len(finalists[0].values) // 2
        lucky = next(final for final in finalists if final.rank == 1)
        steady = max(finalists, key=lambda final: fmean(final.values[:half]))
        lines.append(_line(study, "without finalists", lucky, lucky.search_value, half))
        lines.append(_line(study, "with finalists", steady, fmean(steady.values[:half]), half))
        excess = [final.search_value - fmean(final.values) for final in finalists]
        lines.append(
            f"{study}: over all {len(finalists)} finalists, search less mean of {2 * half} further seeds: mean "
            f"{fmean(excess):+.4f}, from {min(excess):+.4f} to {max(excess):+.4f}"
        )
    return lines


def _line(study: str, how: str, final: Final, promised: float, half: int) -> str:
    reached = final.values[half:]
    error = stdev(reached) / len(reached) ** 0.5
    return (
        f"{study}, {how}: {final.trial_id} (rank {final.rank} of the search) promised {promised:.4f}, reached "
        f"{fmean(reached):.4f} (standard error {error:.4f}, {len(reached)} seeds that chose nothing): winner's curse "
        f"{promised - fmean(reached):+.4f}"
    )


if __name__ == "__main__":
    main()
