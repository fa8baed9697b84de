"""What the words of terminal, report and tables mean: `python -m tune_jobs.report.glossary` writes docs/glossary.md."""

from collections.abc import Mapping
from types import MappingProxyType

GLOSSARY: Mapping[str, str] = MappingProxyType(
    {
        "trial": "One training run with one configuration.",
        "study": (
            "The trials of one architecture with one method on one data set. A job has one study for each "
            "pair."
        ),
        "full fidelity": (
            "A trial that trained for all of the job's epochs has full fidelity; it is completed."
        ),
        "best": (
            "A study's best is its best completed trial, by the metric of its last epoch. The highest value "
            "that a curve has had so far is its running maximum."
        ),
        "rung": (
            "A number of epochs at which early stopping (ASHA) compares a trial with those that got there "
            "before."
        ),
        "cutoff": "The value that a trial had to reach at a rung to train on.",
        "stop zone": (
            "A trial below the cutoff of a rung is in the stop zone. It trains on only if the job protects "
            "it, as it does the best three of a rung."
        ),
        "finalist": (
            "One of the best configurations of a study, trained again with further seeds and validation splits if the "
            "job has search.finalists. The best mean over these wins."
        ),
        "winner's curse": (
            "The best of many single trials is partly lucky, so it promises more than its settings reach with other "
            "seeds."
        ),
        "incumbent": "A trial that was its study's best so far when it was completed.",
        "overtuning": (
            "A search overtunes if its final choice is worse on test data than an incumbent that came before."
        ),
        "trunk": (
            "The epochs, trained once with the base optimizer, from which all trials of an architecture and a seed "
            "start if the job has init.trunk."
        ),
        "pruned": "Stopped by early stopping (ASHA) at a rung; a pruned trial is never a study's best.",
        "cutoff of all values at the end": (
            "The cutoff that a rung would have with all the values that it has when the search has ended; on arrival "
            "a trial was judged among those that were there."
        ),
        "regret": (
            "How much better the best trial is that early stopping would have stopped, had the job not protected it, "
            "than the best of the others."
        ),
        "confirmation": (
            "A study's best configuration, trained again with fresh seeds on all training images. Only here "
            "is the test set read."
        ),
        "seed": (
            "A number that fixes the initial weights and the order of the images. All methods are confirmed "
            "with the same seeds, so that runs pair up."
        ),
        "95 % interval": (
            "Where the mean over all possible seeds lies with a confidence of 95 %. From six seeds on it is found by "
            "resampling the seeds there are (expanded BCa bootstrap, a little wider than the plain one); below, where "
            "that is too narrow, it is Student's, marked t, which takes the values to be normal. Of a difference: for "
            "this pair alone."
        ),
        "sd": "Sample standard deviation: how far single seeds, or trials, lie from their mean.",
        "effect size": (
            "Mean of the differences over paired seeds, in units of their standard deviation, corrected for few "
            "seeds (Hedges)."
        ),
        "p": (
            "How often chance alone would give a difference at least as large, by an exact sign-flip test "
            "over paired seeds."
        ),
        "adjusted p": (
            "p corrected for the number of pairs of an architecture (Holm). One method beat another if it is "
            "at most 0.05."
        ),
        "point": "A hundredth of accuracy: from 0.60 to 0.63 are 3 points.",
        "gradient evaluation": (
            "One forward and backward pass over a batch. A step of a sharpness-aware method takes two, a step "
            "of the base optimizer one."
        ),
        "device hours": (
            "Hours of runs times the CPUs, or the share of a GPU, that each had: two hours on half a GPU are one."
        ),
        "Kendall's tau": (
            "How far two rankings agree: 1 is the same order, 0 no relation, -1 the reverse order."
        ),
        "base optimizer": (
            "The optimizer that takes the descent step, such as AdamW; alone, it is the method base."
        ),
        "control": (
            "A method that differs from ZSharp in one thing, to show what that thing adds: random_sam keeps "
            "random components, magnitude_sam the largest ones."
        ),
        "rho": "Radius of the step uphill, after which the gradient for the descent is taken.",
        "q_p": (
            "Quantile in [0, 1) of the Z-scores' sizes below which ZSharp leaves gradient components out of the "
            "step uphill: 0.95 drops 95 % and keeps the 5 % with the largest."
        ),
        "lr": "Learning rate of the base optimizer.",
    }
)


def as_markdown() -> str:
    """Returns the page of the documentation."""
    lines = [f"| {term} | {meaning} |" for term, meaning in GLOSSARY.items()]
    return "\n".join(["# Glossary", "", "| word | meaning |", "|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).parents[2].joinpath("docs", "glossary.md").write_text(as_markdown(), encoding="utf-8")
