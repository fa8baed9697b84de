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
    search = write_search(
        folder / "search", architectures=["vit_tiny"], methods=["sam", "zsharp"], seeds=8, running=1
    )
    written = write_report([search], folder / "report.html")
    assert written.missing is None
    return written.page


@pytest.fixture(scope="module")
def noticed():
    """What pages requested, said, popped up or got wrong: nothing, when all is over."""
    noticed = []
    yield noticed
    assert noticed == []


@pytest.fixture(scope="module")
def open_page(browser, noticed):
    contexts = []

    def open_page(file, *, width=1200, scheme="light"):
        viewport = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True))
        page = contexts[-1].new_page()
        page.on("dialog", lambda dialog: (noticed.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: noticed.append(message.text))
        page.on("pageerror", lambda error: noticed.append(str(error)))
        own = (file.as_uri(), "data:", "blob:")
        page.on("request", lambda asked: asked.url.startswith(own) or noticed.append(asked.url))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    for context in contexts:
        context.close()


# Drawing a page takes seconds, so tests share these and leave them as they were.


@pytest.fixture(scope="module")
def desktop(open_page, report):
    return open_page(report)


@pytest.fixture(scope="module")
def phone(open_page, report):
    return open_page(report, width=390, scheme="dark")


@pytest.fixture(scope="module")
def tricky(open_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tricky")
    names = {"name": SCRIPT, "architectures": (SCRIPT, IMAGE), "methods": METHODS, "error": IMAGE}
    with pytest.MonkeyPatch.context() as patch:  # the other report has its figures drawn, which takes seconds
        patch.setattr("tune_jobs.report.write.write_images", lambda pictures, files: None)
        page = write_report([write_search(folder, seeds=3, **names)], folder / "report.html").page
    return open_page(page)


def figures_of(page):
    return json.loads(page.locator("#data").text_content())["figures"]


def shown(page, selector):
    return page.locator(selector).evaluate_all("all => all.map(one => one.textContent)")


def test_every_figure_is_drawn_with_its_data(desktop, report):
    figures = figures_of(desktop)
    assert len(figures) > 10
    assert desktop.locator(".picture .main-svg .cartesianlayer").count() == len(figures)
    files = report.with_name("report_files")
    images = {file.stem: file.read_text() for file in files.glob("*.svg")}
    assert set(images) == set(figures)
    assert images["curves-vit-tiny"].startswith("<svg")
    assert ">validation accuracy</text>" in images["curves-vit-tiny"]
    for name, figure in figures.items():
        drawn = desktop.locator(f"#figure-{name}")
        assert drawn.locator(".gtitle").text_content() == figure["layout"]["title"]["text"]
        points = drawn.locator(".scatterlayer .point, .barlayer .point, .scatterlayer .js-line").count()
        assert points > 0, name
    curves = desktop.locator("#figure-curves-vit-tiny .scatterlayer .point")
    assert curves.count() == 24, "12 trials of 2 methods"


def test_the_navigation_goes_to_every_section(desktop):
    links = desktop.locator("nav a")
    assert links.count() == desktop.locator("main section").count() == 10
    for number in range(links.count()):
        links.nth(number).click()
        target = desktop.locator(links.nth(number).get_attribute("href"))
        assert target.evaluate("one => one.getBoundingClientRect().top < innerHeight && one.offsetHeight > 0")
    desktop.locator("details summary").first.click()
    assert '"name": "tiny"' in desktop.locator("details pre").first.inner_text()


def test_a_click_on_a_method_hides_its_trials(desktop):
    figure = desktop.locator("#figure-curves-vit-tiny")
    figure.scroll_into_view_if_needed()
    figure.locator(".legendtoggle").first.click()
    desktop.wait_for_function(
        "() => document.querySelectorAll('#figure-curves-vit-tiny .scatterlayer .point').length < 24"
    )
    assert figure.locator(".scatterlayer .point").count() == 12
    figure.locator(".legendtoggle").first.click()
    desktop.wait_for_function(
        "() => document.querySelectorAll('#figure-curves-vit-tiny .scatterlayer .point').length == 24"
    )


def test_a_pointer_over_a_trial_is_told_which(desktop):
    point = desktop.locator("#figure-slice-vit-tiny-lr .scatterlayer .point").last
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    desktop.wait_for_selector("#figure-slice-vit-tiny-lr .hoverlayer .hovertext")
    said = " ".join(shown(desktop, "#figure-slice-vit-tiny-lr .hoverlayer .hovertext"))
    assert re.search(r"vit_tiny-\w+-\d{4}.*lr 0\.\d+.*validation accuracy 0\.\d{4}", said)


def test_a_figure_can_be_saved_as_svg(desktop):
    figure = desktop.locator("#figure-winners-vit-tiny")
    figure.hover()
    with desktop.expect_download() as download:
        figure.locator(".modebar-btn[data-title*='SVG'], .modebar-btn[data-title*='ownload']").first.click()
    assert download.value.suggested_filename == "winners-vit-tiny.svg"
    assert Path(download.value.path()).read_text().startswith("<svg")


def test_ink_stands_out_from_the_paper_dark_and_then_light(phone):
    def ink():
        return phone.locator(".gtitle").last.evaluate("one => getComputedStyle(one).fill")

    def emulate(scheme):
        before = ink()
        phone.emulate_media(color_scheme=scheme)
        phone.wait_for_function(
            "ink => [...document.querySelectorAll('.gtitle')].every(one => getComputedStyle(one).fill != ink)",
            arg=before,
        )

    for scheme in ("dark", "light"):
        if scheme == "light":
            emulate("light")
        colours = phone.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                ...[...document.querySelectorAll('.xtick text, .gtitle, .legendtext, figcaption, td')]
                    .map(one => one.closest('svg') ? getComputedStyle(one).fill : getComputedStyle(one).color)]"""
        )
        paper, *inks = [luminance(colour) for colour in colours]
        assert len(inks) > 100
        assert (paper < 0.05) == (scheme == "dark")
        contrasts = [(max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) for ink in inks]
        assert min(contrasts) >= 4.5  # WCAG 2.2, 1.4.3
    emulate("dark")


def luminance(colour):
    """Relative luminance of an rgb() colour, by WCAG 2.2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_phone_scrolls_down_only(phone):
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.evaluate("scrollBy(100, 0), scrollX") == 0
    right = "all => all.map(one => one.getBoundingClientRect().right)"
    assert max(phone.locator(".main-svg").evaluate_all(right)) <= 390
    overflow = "all => all.map(one => one.scrollWidth - one.clientWidth)"
    widths = phone.locator(".scroller, nav ul").evaluate_all(overflow)
    assert max(widths) > 0, "the widest table scrolls by itself"
    fades = phone.locator(".scroller, nav ul").evaluate_all(
        "all => all.map(one => getComputedStyle(one).maskImage != 'none')"
    )
    assert fades == [width > 1 for width in widths], "what scrolls says so"
    assert phone.locator(".modebar-btn:visible").count() == 0, "nothing lies over the titles"
    assert phone.locator("p").first.evaluate("one => parseFloat(getComputedStyle(one).fontSize)") >= 16


def test_paper_is_white_and_holds_everything(phone):
    phone.evaluate(
        """() => addEventListener('beforeprint', () => {
            window.printed = [...document.querySelectorAll('.picture')].map(one => [
                one.querySelector('.main-svg').getBoundingClientRect().width,
                getComputedStyle(one.querySelector('.gtitle')).fill]);
            window.opened = [...document.querySelectorAll('details')].every(one => one.open);
        })"""
    )
    pdf = phone.pdf(prefer_css_page_size=True)
    printed = phone.evaluate("printed")
    assert len(printed) == len(figures_of(phone))
    assert all(600 < width <= 700 and luminance(ink) < 0.1 for width, ink in printed)
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    assert phone.evaluate("opened"), "the job is printed"
    phone.wait_for_function("() => document.querySelector('.main-svg').getBoundingClientRect().width <= 390")
    assert phone.locator("details[open]").count() == 0


def test_without_scripts_the_drawn_images_stand_in(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    images = page.locator(".picture img")
    assert images.count() == page.locator(".picture").count() > 10
    assert all(images.evaluate_all("all => all.map(one => one.naturalWidth > 100)"))
    assert page.locator(".wait:visible").count() == 0
    context.close()


def test_names_from_files_stay_text(tricky):
    assert tricky.locator("main script, main img, main a[href^=javascript], main b, svg a").count() == 0
    assert SCRIPT in tricky.locator("h1").text_content()
    titles = " ".join(shown(tricky, ".gtitle"))
    assert SCRIPT in titles and IMAGE in titles
    assert set(METHODS) <= set(shown(tricky, ".legendtext"))
    assert set(METHODS) <= set(shown(tricky, ".ytick text"))
    point = tricky.locator("[id^=figure-slice-img] .scatterlayer .point").last
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    tricky.wait_for_selector(".hoverlayer .hovertext")
    assert IMAGE in " ".join(shown(tricky, ".hoverlayer .hovertext"))
    assert any(IMAGE in cell for cell in shown(tricky, "#table-failures td"))


def test_the_policy_runs_no_script_but_its_own(tricky, noticed):
    assert noticed == []
    tricky.evaluate(
        """() => { const script = document.createElement('script'); script.textContent = 'window.tricked = true';
            document.body.append(script); new Image().src = 'https://example.com/x.png'; }"""
    )
    tricky.wait_for_timeout(200)
    assert tricky.evaluate("window.tricked") is None
    assert sum("Content Security Policy" in text for text in noticed) >= 2
    noticed.clear()
