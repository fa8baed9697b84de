"""The page of a search, or of several: what happens now, and the report made from the ledgers as they are."""

from collections.abc import Sequence
from dataclasses import replace
from xml.etree.ElementTree import Element

from tune_jobs.report.data import collect
from tune_jobs.report.page import Part, Section
from tune_jobs.report.trials import tell_what_is_drawn
from tune_jobs.report.write import name_apart, sections_of
from tune_jobs.serve.elements import link, moment, settings, tag, trial_path
from tune_jobs.serve.front import progress_element, spent, state_element
from tune_jobs.serve.pictures import parallel_section, pareto_section
from tune_jobs.serve.searches import Search
from tune_jobs.wording import clock, counted

_MOST_AUDITED = 1_000  # trials, whose decisions are taken again each time that the report is made
_MOST_RUNNING, _MOST_ENDED, _MOST_LISTED = 16, 8, 100


def now_sections(
    searches: Sequence[Search], stop_form: Element | None = None, *, wait_s: float = -1
) -> list[Section]:
    """Returns what happens now: state, progress, the trials that train, those that ended last.

    Args:
        searches: Which.
        stop_form: The button that stops the search, if there is one.
        wait_s: How long to wait for a ledger that is being read; by default until it has been.
    """
    sections = []
    for number, search in enumerate(searches):
        anchor = "now" if len(searches) == 1 else f"now-{number + 1}"
        title = "Now" if len(searches) == 1 else (search.summary.name if search.summary else search.name)
        sections.append(
            Section(
                anchor,
                title,
                [*_now_or_wait(search, wait_s), *([stop_form] if stop_form is not None else [])],
            )
        )
    return sections


def report_sections(searches: Sequence[Search]) -> list[Section]:
    """Returns the report as the ledgers are now, with pictures that a browser can draw at once."""
    results, tables, addresses = [], [], []
    for search in searches:
        with search.held():  # only for the copy: the report takes longer, and the search goes on
            if search.summary is not None and search.live.trials:
                results.append(search.live.results())
                tables.append(_trials_table(search))
                addresses.append(search.address)
    if not results:
        return []
    report = collect(results, addresses)
    sections = sections_of(report, audits=len(report.trials) <= _MOST_AUDITED)
    at = next((i for i, section in enumerate(sections) if section.anchor == "cost"), len(sections))
    own = [parallel_section(report), pareto_section(report)]
    tell_what_is_drawn([picture for section in own for picture in section.pictures])
    sections[at:at] = own
    sections.insert(at + 2, Section("trials", "Trials", tables))
    if held := [search for search in searches if search.live.stride > 1]:
        strides = " and ".join(f"{search.live.stride}" for search in held)
        note = f"Of its many reports this page keeps every {strides}th epoch, and all at rungs and ends."
        sections[0] = replace(sections[0], parts=[note, *sections[0].parts])
    name_apart([picture for section in sections for picture in section.pictures])
    return sections


def _now_or_wait(search: Search, wait_s: float) -> list[Part]:
    with search.held(wait_s) as is_held:
        return _now(search) if is_held else ["Its ledger is being read ..."]


def _now(search: Search) -> list[Part]:
    if search.problem:
        return [f"Its ledger cannot be read: {search.problem}"]
    summary = search.summary
    if summary is None:
        return ["Its ledger is being read ..."]
    facts: list[tuple[str, Element | str]] = [
        ("state", state_element(summary.state, summary.reason)),
        ("progress", progress_element(summary)),
        ("spent", spent(summary)),
        ("last report", moment(summary.reported_at)),
    ]
    if summary.epochs_per_s is not None:
        facts.insert(2, ("epochs/s", f"{summary.epochs_per_s:.3g}"))
    if summary.left_s is not None:
        facts.insert(3, ("time left", f"about {clock(summary.left_s)}"))
    if summary.best:
        best = summary.best[0]
        text = f" {summary.metric.text(best.value)}{'' if best.is_final else ', still training or stopped'}"
        facts.append(
            ("best", tag("span", link(trial_path(search.id, best.trial_id), best.trial_id), text,
                         tag("small", settings(best.params))))
        )  # fmt: skip
    facts.append(("folder", tag("code", search.address)))
    parts: list[Part] = [tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts),
                             class_="facts")]  # fmt: skip
    if not search.live.is_complete:
        parts.append(f"The ledger is being read: {counted(search.live.num_reports, 'report')} so far.")
    if summary.state == "dead":
        parts.append(f"Resume with: `tune-jobs resume {search.address}`")
    parts += _running(search)
    parts += _ended(search)
    return parts


def _running(search: Search) -> list[Part]:
    live, metric = search.live, search.live.metric
    running = [trial for trial in live.trials.values() if trial["status"] is None]
    if not running:
        return []
    rows: list[list[Element | str]] = []
    for trial in running[:_MOST_RUNNING]:
        summary = live.summaries[trial["trial_id"]]
        value = metric.of(summary)
        rows.append([
            link(trial_path(search.id, trial["trial_id"]), trial["trial_id"]),
            f"{summary['epochs_trained']}/{trial['max_epochs']}",
            "–" if value is None else metric.text(value),
            settings(trial["params"]),
        ])  # fmt: skip
    more = len(running) - len(rows)
    caption = f"{counted(len(running), 'trial')} without an end" + (f", {len(rows)} shown" if more else "")
    return [
        table_of(f"running-{search.id}", caption, ("trial", "epoch", metric.short_label, "settings"), rows)
    ]


def _ended(search: Search) -> list[Part]:
    live, metric = search.live, search.live.metric
    ended = [trial for trial in live.trials.values() if trial["finished_at"] is not None]
    ended = sorted(ended, key=lambda trial: trial["ended_after"] or 0, reverse=True)[:_MOST_ENDED]
    if not ended:
        return []
    rows: list[list[Element | str]] = []
    for trial in ended:
        value = metric.of(live.summaries[trial["trial_id"]])
        rows.append([
            link(trial_path(search.id, trial["trial_id"]), trial["trial_id"]),
            trial["status"],
            "–" if value is None else metric.text(value),
            trial["stop_reason"] or "",
        ])  # fmt: skip
    return [
        table_of(
            f"ended-{search.id}", "The last to end", ("trial", "status", metric.short_label, "why"), rows
        )
    ]


def _trials_table(search: Search) -> Element:
    """Returns the best trials, and those that failed, with links to their pages."""
    live, metric = search.live, search.live.metric

    def merit(trial: dict[str, object]) -> tuple[float, float]:
        summary = live.summaries[str(trial["trial_id"])]
        return metric.merit(metric.of(summary), summary.get("val_loss"))

    ordered = sorted(live.trials.values(), key=merit, reverse=True)
    failed = [trial for trial in ordered if trial["status"] == "failed"][:_MOST_LISTED]
    shown = ordered[:_MOST_LISTED]
    shown += [trial for trial in failed if trial not in shown]
    rows: list[list[Element | str]] = []
    for trial in shown:
        summary = live.summaries[trial["trial_id"]]
        value = metric.of(summary)
        rows.append([
            link(trial_path(search.id, trial["trial_id"]), trial["trial_id"]),
            trial["status"] or "running",
            f"{summary['epochs_trained']}/{trial['max_epochs']}",
            "–" if value is None else metric.text(value),
            settings(trial["params"]),
        ])  # fmt: skip
    rest = len(ordered) - len(shown)
    caption = "All trials, the best first." if not rest else (
        f"The best {len(ordered[:_MOST_LISTED])} of {counted(len(ordered), 'trial')}, and those that failed."
    )  # fmt: skip
    return table_of(
        f"trials-{search.id}", caption, ("trial", "status", "epochs", metric.short_label, "settings"), rows,
        is_sortable=True,
    )  # fmt: skip


def table_of(
    name: str,
    caption: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[Element | str]],
    *,
    is_sortable: bool = False,
) -> Element:
    """Returns a table that may have links in its cells."""
    heads = [
        tag("th", tag("button", header, type="button", class_="sort", data_column=str(i)) if is_sortable else header,
            scope="col")
        for i, header in enumerate(headers)
    ]  # fmt: skip
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    grid = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body), class_="sortable" if is_sortable else "",
               id=f"grid-{name}")  # fmt: skip
    scroller = tag("div", grid, class_="scroller", tabindex="0", role="region", aria_label=caption)
    return tag("figure", tag("figcaption", caption), scroller, class_="table", id=f"table-{name}")
