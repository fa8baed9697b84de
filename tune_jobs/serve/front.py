"""The front page: every search below the folders, with its state, progress and best trials."""

from xml.etree.ElementTree import Element

from tune_jobs.report.page import Section
from tune_jobs.serve.elements import link, moment, search_path, settings, tag, trial_path
from tune_jobs.serve.searches import Search, Searches
from tune_jobs.serve.summary import Summary
from tune_jobs.wording import clock, counted

_MOST_BEST = 6
STATES = {
    "starting": "starting",
    "running": "running",
    "open": "running or dead",
    "finished": "finished",
    "stopped": "stopped",
    "interrupted": "interrupted",
    "dead": "driver died",
    "reading": "reading",
    "unreadable": "unreadable",
}
_HEADERS = (
    *(
        "",
        "search",
        "state",
        "progress",
        "best of each study",
        "epochs/s",
        "time left",
        "spent",
        "last report",
    ),
)


def front_sections(searches: Searches, *, refresh: bool = True) -> list[Section]:
    """Returns the table of all searches, as they are or as they were read last."""
    shown = searches.all()
    for search in shown if refresh else ():
        search.refresh()
    if not shown:
        folders = ", ".join(searches.folders)
        words = f"No search below {folders} yet. A search that starts there appears here by itself."
        return [Section("searches", "Searches", [words])]
    head = tag(
        "thead",
        tag("tr", *(tag("th", _sorter(name, n) if name else tag("span", "compare", class_="unseen"), scope="col")
                    for n, name in enumerate(_HEADERS)), role="row"),
        role="rowgroup",
    )  # fmt: skip
    body = tag("tbody", *(_row(search) for search in shown), role="rowgroup")
    table = tag("table", head, body, class_="searches sortable", role="table", id="searches-table")
    form = tag("form", tag("div", table, class_="scroller"), tag("p", tag("button", "Compare the ticked searches")),
               action="/compare", method="get")  # fmt: skip
    note = "* has not trained in full: it trains still, or was stopped."
    return [Section("searches", counted(len(shown), "search", "searches").capitalize(), [form, note])]


def _sorter(name: str, column: int) -> Element:
    return tag("button", name, type="button", class_="sort", data_column=str(column))


def _row(search: Search) -> Element:
    summary = search.summary
    name = summary.name if summary else search.name
    tick = tag("input", type="checkbox", name="search", value=search.id, id=f"tick-{search.id}",
               aria_label=f"Compare {name}")  # fmt: skip
    title = tag("td", link(search_path(search.id), name), tag("small", search.address), data_label="search",
                data_sort=name.lower(), role="cell")  # fmt: skip
    first = tag("td", tick, class_="tick", role="cell")
    if search.problem or summary is None:
        state = "unreadable" if search.problem else "reading"
        return tag(
            "tr", first, title, _cell("state", state_element(state, search.problem or ""), state), role="row"
        )
    rate, left = summary.epochs_per_s, summary.left_s
    share = summary.num_ended / max(1, summary.num_trials)
    reported = summary.reported_at
    cells = [
        _cell("state", state_element(summary.state, summary.reason), summary.state),
        _cell("progress", progress_element(summary), f"{share:.6f}"),
        _cell(
            "best of each study", _best(search, summary), f"{-summary.best[0].value if summary.best else 0}"
        ),
        _cell("epochs/s", "–" if rate is None else f"{rate:.3g}", f"{-(rate or 0)}"),
        _cell("time left", "–" if left is None else clock(left), f"{left if left is not None else 1e12}"),
        _cell("spent", spent(summary), f"{-summary.epochs}"),
        _cell("last report", moment(reported), f"{-reported.timestamp() if reported else 0}"),
    ]
    return tag("tr", first, title, *cells, role="row")


def _cell(label: str, content: Element | str, key: str) -> Element:
    return tag("td", tag("div", content), data_label=label, data_sort=key, role="cell")


def state_element(state: str, reason: str) -> Element:
    """Returns a state in its colour, and why."""
    return tag("span", tag("span", STATES[state], class_=f"state state-{state}"),
               tag("small", reason) if reason else None)  # fmt: skip


def progress_element(summary: Summary) -> Element:
    """Returns how many trials have ended, as a bar and in words."""
    ended, total = summary.num_ended, summary.num_trials
    words = f"{ended:,} of {counted(total, 'trial')}"
    if summary.counts.get("failed") or summary.counts.get("diverged"):
        lost = summary.counts.get("failed", 0) + summary.counts.get("diverged", 0)
        words += f", {lost} failed or diverged"
    bar = tag("progress", value=str(ended), max=str(max(1, total)), aria_label="trials that have ended")
    return tag("span", bar, tag("small", words))


def spent(summary: Summary) -> str:
    """Returns what a search spent, and what early stopping saved."""
    saved = f", {summary.saved_fraction:.0%} saved" if summary.saved_fraction > 0 else ""
    return f"{counted(summary.epochs, 'epoch')}{saved}"


def _best(search: Search, summary: Summary) -> Element | str:
    lines = [
        tag("li", link(trial_path(search.id, best.trial_id), best.study),
            f" {summary.metric.text(best.value)}{'' if best.is_final else '*'}", tag("small", settings(best.params)))
        for best in summary.best[:_MOST_BEST]
    ]  # fmt: skip
    more = len(summary.best) - len(lines)
    if more > 0:
        lines.append(tag("li", tag("small", f"and {more} more")))
    return tag("ul", *lines, class_="best") if lines else "–"
