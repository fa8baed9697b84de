"""One self-contained HTML page of sections: words, tables, pictures. No text is taken for markup."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

from plotly.offline import get_plotlyjs

from tune_jobs.report.figures import Picture, theme
from tune_jobs.results.tables import Table, to_element


@dataclass(frozen=True)
class Hint:
    """A sentence on what can be done with a picture, which is not printed."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Lead(Bullets):
    """The sentences that the page is read for."""


@dataclass(frozen=True)
class Terms:
    """A list of terms with what each means."""

    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Details:
    """A long text behind its title."""

    title: str
    text: str


Part = str | Hint | Bullets | Terms | Details | Table | Element | Sequence[Picture]
"""A paragraph, a list, a glossary, a folded text, a table, an element as it is, or pictures side by side."""


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its navigation."""

    anchor: str  # its id
    title: str
    parts: Sequence[Part]  # what it holds, in order; empty lists are left out

    @property
    def pictures(self) -> list[Picture]:
        """All pictures of the section."""
        return [picture for part in self.parts if isinstance(part, list | tuple) for picture in part]

    @property
    def tables(self) -> list[Table]:
        """All tables of the section."""
        return [part for part in self.parts if isinstance(part, Table)]


def render_page(
    title: str, subtitle: str, sections: Sequence[Section], images: Mapping[str, str] | None = None
) -> str:
    """Returns the page as HTML.

    Where scripts do not run, tables and words are as ever, and `images` (SVG by the pictures' names) stand in for the
    figures.

    Texts become text nodes of a tree and figures are JSON without "<", so nothing in them can be markup; a
    content security policy lets only this page's own scripts run and nothing be requested.
    """
    own = files("tune_jobs.report")
    scripts = [get_plotlyjs(), (own / "page.js").read_text(encoding="utf-8")]
    page = Element("html", {"lang": "en"})
    head = SubElement(page, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _policy(scripts)})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    SubElement(head, "meta", {"name": "color-scheme", "content": "light dark"})
    SubElement(head, "title").text = title
    SubElement(head, "style").text = (own / "page.css").read_text(encoding="utf-8")
    SubElement(SubElement(head, "noscript"), "style").text = ".wait { display: none; }"
    body = SubElement(page, "body")
    top = SubElement(body, "header")
    SubElement(top, "h1").text = title
    SubElement(top, "p").text = subtitle
    links = SubElement(SubElement(body, "nav", {"aria-label": "Sections"}), "ul")
    main = SubElement(body, "main")
    for section in sections:
        SubElement(SubElement(links, "li"), "a", {"href": f"#{section.anchor}"}).text = section.title
        main.append(section_element(section, images or {}))
    figures = {picture.name: picture.figure for section in sections for picture in section.pictures}
    data = {
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
        "themes": {"light": theme(dark=False), "dark": theme(dark=True)},
    }
    SubElement(body, "script", {"type": "application/json", "id": "data"}).text = json_without_markup(data)
    for script in scripts:
        SubElement(body, "script").text = script
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def section_element(section: Section, images: Mapping[str, str]) -> Element:
    """Returns a section as HTML; `images` are SVG by the pictures' names, for browsers without scripts."""
    element = Element("section", {"id": section.anchor})
    SubElement(element, "h2").text = section.title
    for part in section.parts:
        if isinstance(part, str):
            _paragraph(element, "p", part)
        elif isinstance(part, Hint):
            SubElement(element, "p", {"class": "hint"}).text = part.text
        elif isinstance(part, Bullets):
            bullets = SubElement(element, "ul", {"class": "lead"} if isinstance(part, Lead) else {})
            for item in part.items:
                _paragraph(bullets, "li", item)
        elif isinstance(part, Terms):
            terms = SubElement(element, "dl")
            for term, meaning in part.meanings.items():
                SubElement(terms, "dt").text = term
                SubElement(terms, "dd").text = meaning
        elif isinstance(part, Details):
            details = SubElement(element, "details")
            SubElement(details, "summary").text = part.title
            SubElement(details, "pre").text = part.text
        elif isinstance(part, Table):
            element.append(to_element(part))
        elif isinstance(part, Element):
            element.append(part)
        elif part:
            grid = SubElement(element, "div", {"class": "pictures"})
            for picture in part:
                figure = SubElement(grid, "figure")
                height = f"min-height: {picture.figure.layout.height}px"
                box = SubElement(
                    figure, "div", {"class": "picture", "id": f"figure-{picture.name}", "style": height}
                )
                _stand_in(
                    SubElement(box, "div", {"class": "loading"}), images.get(picture.name), picture.caption
                )
                SubElement(figure, "figcaption").text = picture.caption
    return element


def _stand_in(box: Element, image: str | None, caption: str) -> None:
    """Adds what is shown until the figure is drawn, and where scripts do not run."""
    SubElement(box, "p", {"class": "wait"}).text = "The picture is loading ..."
    silent = SubElement(box, "noscript")
    if image is None:
        SubElement(silent, "p").text = "This picture needs JavaScript."
        return
    data = base64.b64encode(image.encode()).decode()
    SubElement(silent, "img", {"src": f"data:image/svg+xml;base64,{data}", "alt": caption})


def _paragraph(parent: Element, tag: str, sentence: str) -> None:
    """Adds a paragraph; text between backticks becomes code."""
    element = SubElement(parent, tag)
    element.text, *pieces = sentence.split("`")
    for number, piece in enumerate(pieces):
        if number % 2:
            element[-1].tail = piece
        else:
            SubElement(element, "code").text = piece


def _policy(scripts: Sequence[str]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def json_without_markup(data: object) -> str:
    """Returns data as JSON that may stand inside a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
