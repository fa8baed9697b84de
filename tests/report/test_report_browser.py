"""The report in a real browser: drawn, clicked through, light and dark, on a phone, on paper, and never tricked."""

import json
import re
from pathlib import Path

import pytest
from generated_search import write_search

from tune_jobs.report.write import write_report

SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"
METHODS = ("zsharp", "<a href='javascript:alert(3)'>m</a>", "<b>%{x}</b> $m$")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    written = write_report([write_search(folder / "search", seeds=8, running=1)], folder / "report.html")
    assert written.missing is None
    return written.page


@pytest.fixture(scope="module")
def tricky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tricky")
    architectures = (SCRIPT, IMAGE)
    search = write_search(
        folder / "search", name=SCRIPT, architectures=architectures, methods=METHODS, error=IMAGE, seeds=3
    )
    with pytest.MonkeyPatch.context() as patch:  # the other report has its figures drawn, which takes seconds
        patch.setattr("tune_jobs.report.write.write_images", lambda pictures, files: None)
        return write_report([search], folder / "report.html").page


@pytest.fixture(scope="module")
def open_page(browser):
    """Opens a report; at the end nothing was requested, said, popped up or went wrong."""
    contexts, noticed = [], []

    def open_page(file, *, width=1200, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("dialog", lambda dialog: (noticed.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: noticed.append(message.text))
        page.on("pageerror", lambda error: noticed.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                noticed.append(asked.url)
                if not asked.url.startswith((file.as_uri(), "data:", "blob:"))
                else 0
            ),
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert noticed == []


@pytest.fixture(scope="module")
def desktop(open_page, report):
    """One page for all tests that leave it as it was: drawing its figures takes seconds."""
    return open_page(report)


def figures_of(page):
    return json.loads(page.locator("#data").text_content())["figures"]


def shown(page, selector):
    return page.locator(selector).evaluate_all("all => all.map(one => one.textContent)")


def test_every_figure_is_drawn_with_its_data(desktop, report):
    page = desktop
    figures = figures_of(page)
    assert len(figures) > 15
    assert page.locator(".picture .main-svg .cartesianlayer").count() == len(figures)
    files = report.with_name("report_files")
    assert {file.stem for file in files.glob("*.svg")} == set(figures)
    for name, figure in figures.items():
        drawn = page.locator(f"#figure-{name}")
        assert drawn.locator(".gtitle").text_content() == figure["layout"]["title"]["text"]
        points = drawn.locator(".scatterlayer .point, .barlayer .point, .scatterlayer .js-line").count()
        assert points > 0, name
    curves = page.locator("#figure-curves-resnet8 .scatterlayer .point")
    assert curves.count() == 36, "12 trials of 3 methods"


def test_the_navigation_goes_to_every_section(desktop):
    page = desktop
    links = page.locator("nav a")
    assert links.count() == page.locator("main section").count() == 10
    for number in range(links.count()):
        links.nth(number).click()
        target = page.locator(links.nth(number).get_attribute("href"))
        assert target.evaluate("one => one.getBoundingClientRect().top < innerHeight && one.offsetHeight > 0")
    page.locator("details summary").first.click()
    assert '"name": "tiny"' in page.locator("details pre").first.inner_text()


def test_a_click_on_a_method_hides_its_trials(desktop):
    page = desktop
    figure = page.locator("#figure-curves-resnet8")
    figure.scroll_into_view_if_needed()
    figure.locator(".legendtoggle").first.click()
    page.wait_for_function(
        "() => document.querySelectorAll('#figure-curves-resnet8 .scatterlayer .point').length < 36"
    )
    assert figure.locator(".scatterlayer .point").count() == 24
    figure.locator(".legendtoggle").first.click()
    page.wait_for_function(
        "() => document.querySelectorAll('#figure-curves-resnet8 .scatterlayer .point').length == 36"
    )


def test_a_pointer_over_a_trial_is_told_which(desktop):
    page = desktop
    point = page.locator("#figure-slice-vit-tiny-lr .scatterlayer .point").nth(3)
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    page.wait_for_selector("#figure-slice-vit-tiny-lr .hoverlayer .hovertext")
    said = " ".join(shown(page, "#figure-slice-vit-tiny-lr .hoverlayer .hovertext"))
    assert re.search(r"vit_tiny-\w+-\d{4}.*lr 0\.\d+.*validation accuracy 0\.\d{4}", said)


def test_a_figure_can_be_saved_as_svg(desktop):
    page = desktop
    figure = page.locator("#figure-winners-resnet8")
    figure.hover()
    with page.expect_download() as download:
        figure.locator(".modebar-btn[data-title*='SVG'], .modebar-btn[data-title*='ownload']").first.click()
    assert download.value.suggested_filename == "winners-resnet8.svg"
    assert Path(download.value.path()).read_text().startswith("<svg")


def test_ink_stands_out_from_the_paper_dark_and_then_light(open_page, report):
    page = open_page(report, scheme="dark")

    def contrast():
        colours = page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                ...[...document.querySelectorAll('.xtick text, .gtitle, .legendtext, figcaption, td')]
                    .map(one => one.closest('svg') ? getComputedStyle(one).fill : getComputedStyle(one).color)]"""
        )
        paper, *inks = [luminance(colour) for colour in colours]
        assert len(inks) > 100
        return (paper < 0.05), min((max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) for ink in inks)

    is_dark, least = contrast()
    assert is_dark
    assert least >= 4.5  # WCAG 2.2, 1.4.3
    ink = page.locator(".gtitle").last.evaluate("one => getComputedStyle(one).fill")
    page.emulate_media(color_scheme="light" if is_dark else "dark")
    page.wait_for_function(
        "ink => [...document.querySelectorAll('.gtitle')].every(one => getComputedStyle(one).fill != ink)",
        arg=ink,
    )
    was_dark = is_dark
    is_dark, least = contrast()
    assert is_dark != was_dark
    assert least >= 4.5


def luminance(colour):
    """Relative luminance of an rgb() colour, by WCAG 2.2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_phone_scrolls_down_only(open_page, report):
    page = open_page(report, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("scrollBy(100, 0), scrollX") == 0
    widths = page.locator(".main-svg").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().right)"
    )
    assert max(widths) <= 390
    tables = page.locator(".scroller").evaluate_all(
        "all => all.map(one => [one.scrollWidth, one.clientWidth])"
    )
    assert any(inner > outer for inner, outer in tables), "the widest table scrolls by itself"
    assert page.locator("p").first.evaluate("one => parseFloat(getComputedStyle(one).fontSize)") >= 16


def test_paper_is_white_and_holds_everything(open_page, report, tmp_path):
    page = open_page(report, scheme="dark")
    page.evaluate(
        """() => addEventListener('beforeprint', () => {
            window.printed = [...document.querySelectorAll('.picture')].map(one => [
                one.querySelector('.main-svg').getBoundingClientRect().width,
                getComputedStyle(one.querySelector('.gtitle')).fill]);
        })"""
    )
    pdf = page.pdf(prefer_css_page_size=True)
    (tmp_path / "report.pdf").write_bytes(pdf)
    printed = page.evaluate("printed")
    assert len(printed) == len(figures_of(page))
    assert all(width <= 340 and luminance(ink) < 0.1 for width, ink in printed)
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    page.wait_for_function("() => document.querySelector('.main-svg').getBoundingClientRect().width > 340")


def test_names_from_files_stay_text(open_page, tricky):
    page = open_page(tricky)
    assert page.locator("main script, main img, main a[href^=javascript], main b, svg a").count() == 0
    assert SCRIPT in page.locator("h1").text_content()
    titles = shown(page, ".gtitle")
    assert any(SCRIPT in title for title in titles)
    assert any(IMAGE in title for title in titles)
    assert set(METHODS) <= set(shown(page, ".legendtext"))
    assert set(METHODS) <= set(shown(page, ".ytick text"))
    point = page.locator("[id^=figure-slice-img] .scatterlayer .point").nth(3)
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert IMAGE in " ".join(shown(page, ".hoverlayer .hovertext"))
    assert any(IMAGE in cell for cell in shown(page, "#table-failures td"))


def test_the_policy_runs_no_script_but_its_own(browser, tricky):
    page = browser.new_page()
    page.goto(tricky.as_uri())
    page.wait_for_selector("html[data-drawn]")
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(
        """() => { const one = document.createElement('script'); one.textContent = 'window.tricked = true';
            document.body.append(one); const two = new Image(); two.src = 'https://example.com/x.png'; }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.tricked") is None
    assert sum("Content Security Policy" in text for text in refused) >= 2
    page.close()
