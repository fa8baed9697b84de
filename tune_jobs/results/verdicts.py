"""Who beat whom, in a sentence: what terminal, Markdown and page say first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tune_jobs.job.metric import Metric
from tune_jobs.results.method_names import BASE, named_pairs
from tune_jobs.results.statistics import VERDICTS, Comparison, Summary, is_significant, smallest_n
from tune_jobs.results.tables import measured
from tune_jobs.wording import counted

_A_BETTER, _B_BETTER, _NO_DIFFERENCE, _TOO_FEW = VERDICTS


@dataclass(frozen=True)
class Standing:
    """Competitors on one architecture, and how they compare."""

    methods: Mapping[str, str]  # the method of each competitor, by its label
    names: Mapping[str, str]  # what a sentence calls each: "ZSharp", "AdamW alone"
    summaries: Mapping[str, Summary]  # one for each, the best mean first
    comparisons: Sequence[Comparison]  # one for each pair; empty if there are too many
    metric: Metric
    measure: str  # what the values are: "test accuracy"
    noun: str = "method"  # what competitors are: methods, or settings


@dataclass(frozen=True)
class _Pair:
    """A comparison seen from the side that has the better mean."""

    ahead: str
    behind: str
    lead: float  # at least 0, whichever way is better
    low: float | None
    high: float | None
    interval: str | None
    n: int
    is_alone: bool  # whether it would be significant if it were the only pair
    verdict: str


def verdict_in_words(standing: Standing, command: str | None = None, where: str = "") -> str:
    """Returns who beat whom by how much: the named pairs, or if there are none, the best against all others.

    Args:
        standing: What was compared.
        command: The command that confirms with a number of seeds in place of `{}`, if one can be named.
        where: What stands before the sentence, where there is more than one: the architecture.
    """
    named = asked_pairs(standing.methods, standing.comparisons)
    if not named and len(standing.comparisons) == 1:
        named = [(standing.comparisons[0].a, standing.comparisons[0].b)]
    if not named:
        return _sentence(_best_against_all(standing, command), where)
    pairs = {labels: _seen(standing, labels) for labels in named}
    known = [pair for pair in pairs.values() if pair.n]
    if known and all(pair.verdict == _TOO_FEW for pair in known):
        return _sentence(_too_few(standing, pairs, command), where)
    return _sentence("; ".join(_clauses(standing, pairs)), where)


def suggestion_in_words(
    names: Mapping[str, str],
    methods: Mapping[str, str],
    values: Mapping[str, float],
    metric: Metric,
    num_images: int | None = None,
) -> str:
    """Returns how the best trials of a search lie, one seed each.

    Args:
        names: What a sentence calls each competitor.
        methods: The method of each.
        values: The metric of the best trial of each, the best value first.
        metric: The metric.
        num_images: The validation images that an accuracy was measured on; None if that is not known.
    """
    best, *others = values
    if not others:
        return f"{names[best]} reached {metric.label} {metric.text(values[best])}"
    known = {label: methods[label] for label in methods if label in values}
    pairs = named_pairs(known) or [(best, other) for other in others]
    parts: list[str] = []
    for a, b in pairs:
        lead = metric.sign * (values[a] - values[b])
        ahead, behind = (a, b) if lead >= 0 else (b, a)
        by = _by(abs(lead), metric, metric.label if not parts else "")
        if num_images and metric.is_accuracy:
            of = (
                f"of {num_images:,} images"
                if not parts
                else f"image{'' if round(abs(lead) * num_images) == 1 else 's'}"
            )
            by += f" ({round(abs(lead) * num_images):,} {of})"
        parts.append(
            f"{names[ahead]} is ahead of {names[behind]}{by}"
            if lead
            else f"{names[a]} and {names[b]} are level"
        )
    return "; ".join(parts)


def chance_in_words(value: float, num_images: int) -> str:
    """Returns how far apart chance sets two trials that are equally good, whose accuracy is `value`.

    That is the standard error of the difference of two shares of `num_images` images, as if each trial had images of
    its own; on the same images, as here, it is somewhat less.
    """
    error = math.sqrt(2 * value * (1 - value) / num_images)
    images = max(1, round(error * num_images))
    return (
        f"Luck alone easily sets two equally good trials {counted(images, 'image')} apart "
        f"({_points(error, error)} points, one standard error)."
    )


def asked_pairs(methods: Mapping[str, str], comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Returns the named pairs that were compared; none where competitors are several settings of a method."""
    if len(set(methods.values())) < len(methods):
        return []
    compared = {frozenset((pair.a, pair.b)) for pair in comparisons}
    return [pair for pair in named_pairs(methods) if frozenset(pair) in compared]


def _seen(standing: Standing, labels: tuple[str, str]) -> _Pair:
    (pair,) = [pair for pair in standing.comparisons if {pair.a, pair.b} == set(labels)]
    if math.isnan(pair.difference):
        return _Pair(*labels, math.nan, None, None, None, 0, False, _TOO_FEW)
    sign = standing.metric.sign
    is_turned = sign * pair.difference < 0 or (pair.difference == 0 and pair.a != labels[0])
    ahead, behind = (pair.b, pair.a) if is_turned else (pair.a, pair.b)
    ends = [None if end is None else (-sign if is_turned else sign) * end for end in (pair.low, pair.high)]
    low, high = sorted(end for end in ends if end is not None) if None not in ends else (None, None)
    is_alone = pair.p_value is not None and is_significant(pair.p_value)
    return _Pair(
        ahead, behind, abs(pair.difference), low, high, pair.interval, pair.n, is_alone, pair.verdict
    )


def _clauses(standing: Standing, pairs: Mapping[tuple[str, str], _Pair]) -> Iterator[str]:
    against_base = {
        labels: pair
        for labels, pair in pairs.items()
        if BASE in (standing.methods[label] for label in labels)
    }
    said_n: int | None = None
    for labels, pair in pairs.items():
        if labels in against_base:
            continue
        yield _clause(standing, pair, said_n)
        said_n = pair.n or said_n
    undecided = [labels[0] for labels, pair in against_base.items() if pair.verdict == _NO_DIFFERENCE]
    is_short = said_n is not None or len(undecided) > 1
    for pair in against_base.values():
        if pair.verdict != _NO_DIFFERENCE or not is_short:
            yield _clause(standing, pair, said_n)
            said_n = pair.n or said_n
    if undecided and is_short:
        (base,) = {labels[1] for labels in against_base} or {BASE}
        names = [standing.names[label] for label in undecided]
        seeds = "" if said_n is not None else f" ({against_base[undecided[0], base].n} seeds)"
        if len(undecided) == len(against_base) == 2:
            yield f"neither {'of the two ' if said_n is None else ''}beat {standing.names[base]}{seeds}"
        elif len(undecided) == len(against_base) > 2:
            yield f"none of {listed(names, 'and')} beat {standing.names[base]}{seeds}"
        else:
            yield f"{listed(names, 'and')} did not beat {standing.names[base]}{seeds}"


def _clause(standing: Standing, pair: _Pair, said_n: int | None) -> str:
    ahead, behind = standing.names[pair.ahead], standing.names[pair.behind]
    if not pair.n:
        return f"{ahead} and {behind} share no seed"
    if pair.verdict == _TOO_FEW:
        return f"{_seeds(pair.n)} {'is' if pair.n == 1 else 'are'} too few to tell {ahead} from {behind}"
    by = _by(pair.lead, standing.metric, standing.measure if said_n is None else "")
    extent = _extent(pair, standing.metric, said_n)
    if pair.verdict == _NO_DIFFERENCE:
        why = _why_not(standing, pair)
        return f"no difference is shown between {ahead} and {behind}{why} ({ahead} ahead{by}, {extent})"
    return f"{ahead} beat {behind}{by} ({extent})"


def _why_not(standing: Standing, pair: _Pair) -> str:
    """Returns why no difference is shown where the interval, which is for the pair alone, leaves out 0."""
    if pair.low is None or pair.high is None or pair.low <= 0 <= pair.high:
        return ""
    if not pair.is_alone:
        return " by the sign-flip test"
    tested = sum(compared.p_value is not None for compared in standing.comparisons)
    return f" after correction for {tested} comparisons"


def _by(lead: float, metric: Metric, measure: str) -> str:
    if metric.is_accuracy and metric.mode == "max":
        return f" by {_points(lead, lead)} points{f' of {measure}' if measure else ''}"
    return f", {measure + ' ' if measure else ''}{metric.better} by {lead:.3g}"


def _extent(pair: _Pair, metric: Metric, said_n: int | None) -> str:
    n = "" if said_n == pair.n else f", {_seeds(pair.n)}"
    if pair.low is None or pair.high is None:
        return f"too few for an interval{n}"
    if metric.is_accuracy and metric.mode == "max":
        ends = f"{_points(pair.low, pair.lead)} to {_points(pair.high, pair.lead)}"
    else:
        ends = f"{pair.low:.3g} to {pair.high:.3g}"
    return f"{_interval_name(pair.interval) if n else ''}{ends}{n}"


def _interval_name(kind: str | None) -> str:
    return "95 % t interval " if kind == "t" else "95 % interval "


def _points(value: float, of: float) -> str:
    """Returns a difference of accuracies in points, with as many decimals as one of size `of` needs."""
    text = f"{100 * value:.{1 if of >= 0.005 else 2}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def _too_few(standing: Standing, pairs: Mapping[tuple[str, str], _Pair], command: str | None) -> str:
    n = max(pair.n for pair in pairs.values())
    known = [pair for pair in pairs.values() if pair.n]
    leads: list[str] = []
    for pair in known:
        by = _by(pair.lead, standing.metric, standing.measure if not leads else "")
        leads.append(f"{standing.names[pair.ahead]} is ahead of {standing.names[pair.behind]}{by}")
    names = listed([standing.names[label] for label in standing.methods], "and")
    return f"{_few(standing, n, names, command)} So far {'; '.join(leads)} (n = {n})"


def _few(standing: Standing, n: int, names: str, command: str | None) -> str:
    enough = smallest_n(len(standing.methods))
    how = f": `{command.replace('{}', str(enough))}`" if command else ""
    return f"{_seeds(n)} {'is' if n == 1 else 'are'} too few to tell {names} apart; {enough} can{how}."


def _best_against_all(standing: Standing, command: str | None) -> str:
    best, summary = next(iter(standing.summaries.items()))
    metric, nouns = standing.metric, f"{standing.noun}s"
    reached = f"{metric.best} mean {standing.measure}, {measured(summary.mean, metric)}"
    spread = ""
    if summary.low is not None and summary.high is not None:
        ends = f"{measured(summary.low, metric)} to {measured(summary.high, metric)}"
        spread = f"{_interval_name(summary.interval)}{ends}, "
    opening = f"{standing.names[best]} has the {reached} ({spread}{_seeds(summary.n)})"
    if len(standing.summaries) == 1:
        return f"{opening}; there is no other {standing.noun} to compare it with"
    if not standing.comparisons:
        return f"{opening}; {len(standing.summaries)} {nouns} are too many to compare in pairs"
    rivals: dict[str, list[str]] = {}
    for label in standing.summaries:
        if label != best:
            rivals.setdefault(_seen(standing, (best, label)).verdict, []).append(standing.names[label])
    beaten = [name for verdict in (_A_BETTER, _B_BETTER) for name in rivals.get(verdict, [])]
    parts = [opening]
    if beaten:
        is_all = len(beaten) == len(standing.summaries) - 1 and len(beaten) > 2
        parts.append(f"it beat {f'all {len(beaten)} other {nouns}' if is_all else listed(beaten, 'and')}")
    if same := rivals.get(_NO_DIFFERENCE):
        parts.append(f"no difference is shown to {listed(same, 'or')}")
    if few := rivals.get(_TOO_FEW):
        names = listed([standing.names[best], *few], "and")
        parts.append(_few(standing, summary.n, names, command).rstrip("."))
    return "; ".join(parts)


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def listed(names: Sequence[str], conjunction: str) -> str:
    """Returns `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def _sentence(text: str, where: str) -> str:
    """Returns text as a sentence; names that begin it keep their letters, but `the ...` and `no ...` get a capital."""
    if where:
        return f"{where}: {text}."
    is_word = text.startswith(("the ", "no ", "neither ", "none "))
    return f"{text[0].upper() if is_word else text[0]}{text[1:]}."
