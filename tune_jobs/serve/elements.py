"""HTML of the live page in a few words: elements, times, links. No text is taken for markup."""

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote
from xml.etree.ElementTree import Element

from tune_jobs.results.tables import setting


def tag(element_name: str, /, *children: "Element | str | None", **attributes: str) -> Element:
    """Returns an element; `class_` and `for_` give these attributes, `data_x` gives `data-x`. None is left out."""
    plain = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    element = Element(element_name, plain)
    last: Element | None = None
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return element


def moment(when: datetime | None) -> Element:
    """Returns a time, which the page shows as `12 s ago` and keeps up to date."""
    if when is None:
        return tag("span", "–")
    iso = when.isoformat(timespec="seconds")
    return tag("time", iso, datetime=iso, class_="ago")


def link(href: str, text: str) -> Element:
    """Returns a link to another page of this server."""
    return tag("a", text, href=href)


def search_path(*ids: str) -> str:
    """Returns the path of the page of one search, or of several together."""
    return f"/searches/{','.join(ids)}"


def trial_path(search_id: str, trial_id: str) -> str:
    """Returns the path of a trial's page."""
    return f"/searches/{search_id}/trials/{quote(trial_id, safe='')}"


def settings(params: Mapping[str, object]) -> str:
    """Returns settings as `rho 0.05, lr 0.001`."""
    return ", ".join(f"{name} {_setting(value)}" for name, value in params.items()) or "defaults"


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return setting(value) if isinstance(value, float | int) else str(value)
