"""What all pages share: the frame around sections, and how sections and figures travel to the browser."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import tostring

from plotly.offline import get_plotlyjs

from tune_jobs.report.figures import theme
from tune_jobs.report.page import Section, json_without_markup, section_element
from tune_jobs.serve.elements import link, tag


def shell(title: str, path: str, sections: Sequence[Section] = (), *, has_report: bool = False) -> str:
    """Returns a page as HTML; its script fills in sections as they change.

    Args:
        title: The page's heading.
        path: Where the page is; its events are below.
        sections: What it shows at first, and to browsers without scripts.
        has_report: Whether a report follows, which is fetched when the page has been drawn.
    """
    own = path.rstrip("/")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} - tune-jobs"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="stylesheet", href="/static/page.css"),
        tag("script", "", src="/static/plotly.js", defer="defer"),
        tag("script", "", src="/static/live.js", defer="defer"),
    )
    home = tag("p", link("/", "All searches")) if own else None
    top = tag("header", home, tag("h1", title), tag("p", "", id="notice", role="status", aria_live="polite"))
    main = tag(
        "main",
        tag("div", *(section_element(section, {}) for section in sections), id="now-part"),
        tag("div", tag("p", "The report is being made ...", class_="wait") if has_report else None,
            id="report-part"),
        tag("noscript", tag("p", "Without JavaScript this page neither updates nor shows pictures.")),
    )  # fmt: skip
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        top,
        tag("nav", tag("ul"), aria_label="Sections"),
        main,
        tag("script", json_without_markup({"light": theme(dark=False), "dark": theme(dark=True)}),
            type="application/json", id="themes"),
        data_events=f"{own}/events",
        data_report=f"{own}/report.json" if has_report else "",
    )  # fmt: skip
    main.set("id", "main")
    page = tag("html", head, body, lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def as_json(sections: Sequence[Section]) -> str:
    """Returns sections and their figures for the page's script."""
    figures: dict[str, Any] = {
        picture.name: json.loads(picture.figure.to_json())
        for section in sections
        for picture in section.pictures
    }
    rendered = [
        {
            "anchor": section.anchor,
            "html": tostring(section_element(section, {}), encoding="unicode", method="html"),
        }
        for section in sections
    ]
    return json.dumps({"sections": rendered, "figures": figures}, ensure_ascii=False, allow_nan=False)


def static_files() -> dict[str, tuple[str, str]]:
    """Returns the files that pages load, each with its type; there are no others."""
    own, report = files("tune_jobs.serve").joinpath("static"), files("tune_jobs.report")
    style = report.joinpath("page.css").read_text("utf-8") + own.joinpath("live.css").read_text("utf-8")
    return {
        "plotly.js": (get_plotlyjs(), "text/javascript"),
        "live.js": (own.joinpath("live.js").read_text("utf-8"), "text/javascript"),
        "page.css": (style, "text/css"),
    }
