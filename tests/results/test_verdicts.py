"""Who beat whom, in words: tables of values on one side, the sentence on the other."""

import pytest

from tune_jobs.job.metric import Metric
from tune_jobs.results.method_names import long_form, named_pairs, short_name
from tune_jobs.results.statistics import compare_methods, summarize
from tune_jobs.results.verdicts import Standing, chance_in_words, suggestion_in_words, verdict_in_words
from zsharp.optim.methods import METHODS

ACCURACY, LOSS = Metric("test_accuracy"), Metric("val_loss", "min")
NOISE = (0.0, 0.004, -0.003, 0.002, -0.001, 0.003, -0.002)
"""Of the seeds; what is added to some and not to others below is a difference without a direction."""
WOBBLE = (0.01, -0.012, 0.011, -0.009, 0.008, -0.011, 0.009)
COMMAND = "tune-jobs confirm DIR --seeds {}"


def standing(means, *, seeds=7, metric=ACCURACY, measure="test accuracy", settings=False):
    """Competitors with these means; one of a pair with True wobbles from seed to seed."""
    values = {}
    for label, mean in means.items():
        level, wobbles = mean if isinstance(mean, tuple) else (mean, False)
        values[label] = {seed: level + NOISE[seed] + wobbles * WOBBLE[seed] for seed in range(seeds)}
    summaries = {label: summarize(list(of.values())) for label, of in values.items()}
    ranked = dict(sorted(summaries.items(), key=lambda item: -metric.sign * item[1].mean))
    methods = {label: label.split()[0] for label in means}
    names = {
        label: short_name(method, "adamw") + label.removeprefix(method) for label, method in methods.items()
    }
    compared = compare_methods(values, higher_is_better=metric.mode == "max")
    return Standing(methods, names, ranked, compared, metric, measure, "setting" if settings else "method")


UNSURE = (0.6, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        # the sentence that the tool exists for
        (
            standing({"zsharp": 0.633, "sam": 0.6, "base": (0.62, True)}),
            "ZSharp beat SAM by 3.3 points of test accuracy (95 % interval 3.3 to 3.3, 7 seeds); ",
        ),
        (standing({"zsharp": 0.6, "sam": 0.64}), "SAM beat ZSharp by 4.0 points of test accuracy (95 % "),
        (standing({"zsharp": 0.6, "sam": UNSURE}), "No difference is shown between "),
        (standing({"zsharp": 0.65, "sam": 0.6, "base": 0.7}), "; AdamW alone beat ZSharp by 5.0 points ("),
        (standing({"zsharp": 0.65, "sam": 0.6, "base": (0.65, True)}), "; ZSharp did not beat AdamW alone."),
        (standing({"zsharp": 0.65, "sam": (0.65, True), "base": UNSURE}), "AdamW alone"),
        # one method against base: everything is said
        (standing({"sam": 0.6, "base": UNSURE}), "No difference is shown between "),
        (standing({"sam": 0.65, "base": 0.6}), "SAM beat AdamW alone by 5.0 points of test accuracy (95 % "),
        # controls
        (
            standing({"zsharp": 0.65, "random_sam": 0.6, "magnitude_sam": (0.65, True)}, seeds=6),
            "6 seeds",
        ),
        (standing({"zsharp": 0.65, "random_sam": 0.6}), "ZSharp beat the random control by 5.0 points"),
        (standing({"zsharp": 0.6, "random_sam": 0.65}), "The random control beat ZSharp by 5.0 points"),
        # less is better, and no accuracy
        (
            standing({"sam": 0.5, "base": 0.512}, metric=LOSS, measure="test_loss"),
            "SAM beat AdamW alone, test_loss lower by 0.0",
        ),
        # too few seeds
        (
            standing({"zsharp": 0.65, "sam": 0.6, "base": 0.6}, seeds=3),
            "3 seeds are too few to tell ZSharp, SAM and AdamW alone apart; "
            "7 can: `tune-jobs confirm DIR --seeds 7`. So far ZSharp is ahead of SAM by 5.0 points of test",
        ),
        (
            standing({"zsharp": 0.65, "sam": 0.6}, seeds=1),
            "1 seed is too few to tell ZSharp and SAM apart; 6 ",
        ),
        # nothing that has a name
        (standing({"asam": 0.65, "friendly_sam": 0.6}), "ASAM beat Friendly-SAM by 5.0 points of test accu"),
        (
            standing({"asam": 0.75, "friendly_sam": 0.6, "mine": 0.7}),
            "ASAM has the highest mean test accuracy, 0.75",
        ),
        (standing({"sam": 0.75}), "; there is no other method to compare it with."),
        (
            standing({"zsharp q_p 0.9": 0.65, "zsharp q_p 0.5": 0.6}, settings=True),
            "ZSharp q_p 0.9 beat ZSharp q_p 0.5 by 5.0 points",
        ),
        (
            standing({f"zsharp q_p 0.{n}": 0.6 + n / 100 for n in (3, 5, 9)}, settings=True),
            "ZSharp q_p 0.9 has the highest mean test accuracy, 0.69",
        ),
    ],
)
def test_the_sentence(given, said):
    sentence = verdict_in_words(given, COMMAND)
    assert said in sentence
    assert sentence.endswith(".") and ".." not in sentence and "nan" not in sentence.split()


def test_neither_beats_the_base_optimizer():
    given = standing({"zsharp": 0.65, "sam": 0.6, "base": 0.62}, seeds=7)
    unsure = [
        pair
        if "base" not in (pair.a, pair.b)
        else type(pair)(**vars(pair) | {"verdict": "no difference shown"})
        for pair in given.comparisons
    ]
    given = Standing(**vars(given) | {"comparisons": unsure})
    assert verdict_in_words(given).endswith(", 7 seeds); neither beat AdamW alone.")


@pytest.mark.parametrize(
    ("values", "metric", "said"),
    [
        (
            {"zsharp": 0.65, "sam": 0.6, "base": 0.65},
            Metric(),
            "ZSharp is ahead of SAM by 5.0 points of validation accuracy; ZSharp and AdamW alone are level; "
            "AdamW alone is ahead of SAM by 5.0 points",
        ),
        ({"sam": 0.5, "base": 0.512}, LOSS, "SAM is ahead of AdamW alone, val_loss lower by 0.012"),
        ({"sam": 0.5}, LOSS, "SAM reached val_loss 0.5"),
        ({"mine": 2.0, "asam": 1.0}, Metric("score"), "mine is ahead of ASAM, score higher by 1"),
    ],
)
def test_what_a_search_suggests(values, metric, said):
    names = {method: short_name(method, "adamw") for method in values}
    assert suggestion_in_words(names, {method: method for method in values}, values, metric) == said


def test_a_suggestion_counts_images_and_what_luck_does():
    values, names = {"zsharp": 0.62, "sam": 0.6, "base": 0.5967}, {name: name for name in METHODS}
    said = suggestion_in_words(names, names, values, Metric(), 300)
    assert "zsharp is ahead of sam by 2.0 points of validation accuracy (6 of 300 images); " in said
    assert said.endswith("(1 image)")
    # the standard error of a difference of two shares of one half is sqrt(1 / (2 n))
    assert "12 images apart (4.1 points, one standard error)" in chance_in_words(0.5, 300)
    assert "images" not in suggestion_in_words(names, names, values, LOSS, 300)


def test_every_method_has_a_name_for_sentences():
    assert [name for name in METHODS if short_name(name) == name] == []
    assert [name for name in METHODS if long_form(name) is None] == ["base"]
    asked = named_pairs({name: name for name in METHODS})
    aware = {name for name in METHODS if name != "base"}
    assert {name for pair in asked for name in pair} == set(METHODS)
    assert len(set(map(frozenset, asked))) == len(asked)
    assert asked[0] == ("zsharp", "sam") and {a for a, b in asked if b == "base"} < aware
