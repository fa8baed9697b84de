"""The live page in a real browser, beside a real search whose driver is killed and resumed."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import axe_playwright_python
import pytest

from tune_jobs.cli.serve import served

pytestmark = pytest.mark.slow

SETS = (
    "architectures=[resnet8]", "methods=[zsharp]", "data.max_images=200", "train.batch_size=32", "train.epochs=40",
    "train.warmup_epochs=0", "search.num_trials=2", "asha.enabled=false", "resources.max_concurrent=1",
)  # fmt: skip
TUNE_JOBS = Path(sys.executable).with_name("tune-jobs")
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


@contextmanager
def running(*words, **options):
    process = subprocess.Popen([str(TUNE_JOBS), *map(str, words)], start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def address(tmp_path):
    with running("serve", tmp_path, "--port", 0, stdout=subprocess.PIPE, text=True) as server:
        yield re.search(r"http://\S+", server.stdout.readline()).group(0)
        server.terminate()
        server.stdout.close()


def judged(page):
    """The serious findings of axe-core, the rules of WCAG for what machines can tell."""
    page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": AXE})
    found = page.evaluate("axe.run(document)")["violations"]
    return [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def epoch_shown(page):
    texts = page.locator("[id^=table-running] td:nth-child(2)").all_text_contents()
    return max((int(text.split("/")[0]) for text in texts), default=0)


def test_a_search_is_watched_through_a_kill_and_a_resume(browser, tmp_path, address):
    folder, noticed = tmp_path / "search", []
    page = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="dark")
    page.on("console", lambda message: noticed.append(message.text))
    page.on("pageerror", lambda error: noticed.append(str(error)))
    page.on(
        "request",
        lambda asked: asked.url.startswith((address, "data:", "blob:")) or noticed.append(asked.url),
    )
    page.goto(address)
    sets = [part for text in SETS for part in ("--set", text)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with running("run", "digits", "--out", folder, *sets, **quiet) as driver:
        page.locator(".state-running").wait_for(timeout=90_000)  # it appears by itself
        page.locator("td[data-label=search] a").click()
        page.locator("#figure-curves-resnet8").wait_for(state="attached", timeout=90_000)
        before = epoch_shown(page)
        page.wait_for_function(
            "before => [...document.querySelectorAll('[id^=table-running] td:nth-child(2)')]"
            ".some(one => parseInt(one.textContent) > before)",
            arg=before,
            timeout=30_000,
        )
        page.locator("#curves").scroll_into_view_if_needed()
        page.locator("#figure-curves-resnet8 .main-svg").first.wait_for(timeout=30_000)
        page.evaluate("window.kept = document.querySelector('#figure-curves-resnet8')")
        os.killpg(driver.pid, signal.SIGKILL)
    page.locator(".state-dead").wait_for(timeout=30_000)
    assert "tune-jobs resume" in page.locator("#now").inner_text()
    reached = epoch_shown(page)
    with running("resume", folder, **quiet) as driver:
        page.locator(".state-running").wait_for(timeout=90_000)
        page.wait_for_function(
            "reached => [...document.querySelectorAll('[id^=table-running] td:nth-child(2)')]"
            ".some(one => parseInt(one.textContent) > reached)",
            arg=reached,
            timeout=60_000,
        )
        assert page.evaluate("kept.isConnected"), "the picture was drawn again where it stood"
        assert judged(page) == []
        driver.send_signal(signal.SIGINT)
        page.locator(".state-interrupted").wait_for(timeout=60_000)
        driver.wait(60)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#trials td a").first.click()
    page.locator("#figure-curve .main-svg").first.wait_for(timeout=30_000)
    assert judged(page) == []
    page.goto(address)
    page.get_by_role("button", name="progress").focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").count() == 1
    assert judged(page) == []
    assert noticed == []


DRIVER = """
import sys, time; from pathlib import Path
from live_ledger import JOB, report; from ledgers import start; from tune_jobs.ledger.writer import Ledger
folder = Path(sys.argv[1])
if not folder.exists():
    with Ledger.create(folder, JOB, {}) as ledger:
        start(ledger, "resnet8-sam-0000", study="resnet8-sam", architecture="resnet8", max_epochs=999)
with Ledger.open(folder) as ledger:
    ledger.record_event("start", {})
    while True:
        epoch = len(ledger.reports()) + 1
        report(ledger, "resnet8-sam-0000", epoch, 1 - 1 / (epoch + 1))
        print(epoch, time.time(), flush=True)
        time.sleep(0.7)
"""


@contextmanager
def driver(folder):
    """A process that writes a ledger as a driver does, without a Ray."""
    support = Path(__file__).parents[1] / "support"
    environment = os.environ | {"PYTHONPATH": f"{support}{os.pathsep}{support.parents[1]}"}
    command = [sys.executable, "-c", DRIVER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_reports_arrive_within_two_seconds_and_zoom_stays(browser, tmp_path, address):
    folder = tmp_path / "search"
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    with driver(folder) as process:
        process.stdout.readline()
        page.goto(address)
        page.locator("td[data-label=search] a").click()
        page.locator("#figure-curves-resnet8").wait_for(state="attached", timeout=60_000)
        page.locator("#curves").scroll_into_view_if_needed()
        page.locator("#figure-curves-resnet8 .main-svg").first.wait_for(timeout=60_000)
        page.evaluate(
            """() => {
                window.box = document.getElementById('figure-curves-resnet8');
                Plotly.relayout(box, {'xaxis.range': [2, 4]});
                window.late = [];
                new MutationObserver(() => {
                    const shown = document.querySelector('[id^=table-running] td:nth-child(2)');
                    if (shown) late.push([parseInt(shown.textContent), Date.now() / 1000]);
                }).observe(document.getElementById('now-part'), {childList: true, subtree: true});
            }"""
        )
        points = page.evaluate("box.data[1].x.length")
        page.wait_for_function("points => box.data[1].x.length > points", arg=points, timeout=60_000)
        assert page.evaluate("box.isConnected && box.layout.xaxis.range.join()") == "2,4"
        page.wait_for_timeout(4000)
        shown = page.evaluate("late")
        process.kill()
        page.locator(".state-dead").wait_for(timeout=15_000)
        reported = dict(line.split() for line in process.stdout.read().splitlines())
    delays = [seen - float(reported[str(epoch)]) for epoch, seen in shown if str(epoch) in reported]
    assert len(delays) >= 3
    assert min(delays) >= 0
    assert sorted(delays)[len(delays) // 2] < 2.0
    with driver(folder):
        page.locator(".state-running").wait_for(timeout=15_000)
        assert judged(page) == []


def test_a_server_that_is_restarted_is_found_again_by_an_open_page(browser, tmp_path):
    page, token = browser.new_page(), {"env": os.environ | {"TUNE_JOBS_TOKEN": "t" * 20}}
    line = {"stdout": subprocess.PIPE, "text": True, **token}
    with driver(tmp_path / "search") as process:
        process.stdout.readline()
        with running("serve", tmp_path, "--port", 0, **line) as server:
            address = re.search(r"http://\S+", server.stdout.readline()).group(0)
            assert "token" not in address
            page.goto(f"{address}?token={'t' * 20}")
            page.locator("td[data-label=search] a").click()
            page.locator("#figure-curves-resnet8").wait_for(state="attached", timeout=60_000)
            shown = epoch_shown(page)
            server.kill()
            page.locator("#notice.lost").wait_for(timeout=15_000)
            server.stdout.close()
        with running("serve", tmp_path, "--port", re.search(r":(\d+)/", address).group(1), **line) as server:
            page.get_by_text("Connected again").wait_for(timeout=30_000)
            page.wait_for_function(
                "shown => [...document.querySelectorAll('[id^=table-running] td:nth-child(2)')]"
                ".some(one => parseInt(one.textContent) > shown)",
                arg=shown,
                timeout=30_000,
            )
            server.stdout.close()


def answer_of(address):
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.2)


def test_the_page_beside_a_search_ends_with_it(tmp_path, capsys):
    with served(str(tmp_path), allow_stop=True):
        address = re.search(r"http://\S+", capsys.readouterr().out).group(0)
        plain, _, token = address.partition("?token=")
        assert len(token) > 20
        assert answer_of(plain) == (401, "")
    with served(str(tmp_path)):
        address = re.search(r"http://\S+", capsys.readouterr().out).group(0)
        assert "No search below" in answer_of(address)[1]
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)
