"""What the live page shows of a ledger, and that it follows one that is being written."""

import json
import re
import time
from datetime import datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pytest
from ledgers import start
from live_ledger import EVIL, JOB, report, write_trials

from tune_jobs.ledger import rows
from tune_jobs.ledger.follow import Follower
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.report.curves import budget_section
from tune_jobs.report.data import collect
from tune_jobs.results import live as live_results
from tune_jobs.results.live import LiveResults
from tune_jobs.results.read import read_results
from tune_jobs.results.write import export
from tune_jobs.serve.searches import Searches
from tune_jobs.serve.summary import summarize


def only_id(client):
    (found,) = set(re.findall(r"/searches/([0-9a-f]{16})\"", client.get("/").text))
    return found


def test_live_results_are_those_of_an_export(folder):
    live = LiveResults(folder)
    assert live.update() and not live.update()
    with Ledger.open(folder) as ledger:
        report(ledger, "resnet8-sam-0007", 2, 0.7)
        ledger.finish_trial("resnet8-sam-0007", "interrupted", "test")
        write_trials(ledger, 8, 4)
    assert live.update()
    export(folder)
    expected, now = read_results(folder), live.results()
    for name in ("trials", "epochs", "confirmations"):
        pd.testing.assert_frame_equal(getattr(now, name), getattr(expected, name))
    assert now.metadata == expected.metadata


def test_a_follower_reads_each_row_once(folder):
    follower = Follower(folder)
    first = follower.look()
    assert len(first.trials) == 8 and len(first.reports) == 15 and follower.look() is None
    with Ledger.open(folder) as ledger:
        report(ledger, "resnet8-sam-0007", 2, 0.7)
        news = follower.look()
        assert [row["epoch"] for row in news.reports] == [2] and not news.trials
        report(ledger, "resnet8-sam-0007", 3, 0.8, Decision("complete"), "completed")
        news = follower.look()
        assert [row["status"] for row in news.trials] == ["completed"] and len(news.reports) == 1


def test_a_replaced_ledger_is_read_anew(folder):
    follower = Follower(folder)
    follower.look()
    (folder / "ledger.sqlite").rename(folder / "old")
    with Ledger.create(folder, JOB, {}):
        pass
    news = follower.look()
    assert news.is_another and news.trials == [] and news.meta["job"]["name"] == "tiny"


def test_states_follow_the_ledger_and_its_lock(folder):
    searches = Searches([str(folder.parent)])

    def state():
        (search,) = searches.all()
        search._read_s = 0.0
        search.refresh()
        return search.summary.state, search.pid

    assert state() == ("dead", None)
    with Ledger.open(folder) as ledger:
        name, pid = state()
        assert name == "running" and pid
        ledger.finish_trial("resnet8-sam-0007", "interrupted", "interrupted by SIGINT")
        ledger.record_event("stop", {"reason": "interrupted by SIGINT"})
    assert state()[0] == "interrupted"
    with Ledger.open(folder) as ledger:
        ledger.record_event("start", {})
        ledger.reopen_trial("resnet8-sam-0007")
        report(ledger, "resnet8-sam-0007", 2, 0.7)
        report(ledger, "resnet8-sam-0007", 3, 0.8, Decision("complete"), "completed")
        write_trials(ledger, 8, 4)
        ledger.record_event("stop", {"reason": None})
    assert state()[0] == "finished"


@pytest.mark.parametrize("by", [timedelta(days=-3), timedelta(days=3)])
def test_the_rate_is_that_of_the_reports_whoever_sets_the_clock(folder, monkeypatch, by):
    set_clock = SimpleNamespace(now=lambda zone: datetime.now(zone) + by)
    monkeypatch.setattr(rows, "datetime", set_clock)  # the driver's, in a second session
    with Ledger.open(folder) as ledger:
        ledger.record_event("start", {})
        report(ledger, "resnet8-sam-0007", 2, 0.7)
        time.sleep(0.01)
        report(ledger, "resnet8-sam-0007", 3, 0.8, Decision("complete"), "completed")
        live = LiveResults(folder)
        live.update()
        summary = summarize(live, writer=1)
    assert 0.1 < summary.epochs_per_s <= 100
    assert 0 < summary.left_s < 100


def test_the_front_page_has_every_search_below_the_folder(client_for, folder, tmp_path):
    write_search_elsewhere = tmp_path / "results" / "deep" / "er"
    with Ledger.create(write_search_elsewhere, JOB | {"name": EVIL}, {}):
        pass
    page = client_for(tmp_path / "results").get("/").text
    assert page.count("state state-dead") == 2
    assert "0.84" in page and "7 of 12 trials" in page
    assert EVIL not in page and "&lt;img src=x" in page


def test_a_search_and_its_report(client_for, folder):
    client = client_for(folder)
    path = f"/searches/{only_id(client)}"
    page = client.get(path).text
    assert "driver died" in page and "resnet8-sam-0007" in page
    report = client.get(f"{path}/report.json").json()
    anchors = [section["anchor"] for section in report["sections"]]
    assert {"answer", "curves", "parallel", "pareto", "trials", "endings"} <= set(anchors)
    assert {"curves-resnet8", "parallel-resnet8", "pareto-train-s-resnet8"} <= set(report["figures"])
    table = next(s["html"] for s in report["sections"] if s["anchor"] == "pareto")
    front = re.findall(r"resnet8-sam-\d{4}", table.split("table-pareto-train-s")[1].split("</table>")[0])
    assert front == ["resnet8-sam-0002", "resnet8-sam-0005", "resnet8-sam-0004"]  # two equals, and the best
    assert EVIL not in json.dumps(report)


def test_a_trial_and_its_decisions(client_for, folder):
    client = client_for(folder)
    path = f"/searches/{only_id(client)}/trials"
    stopped = client.get(f"{path}/resnet8-sam-0002").text
    assert "0.4 is below the cutoff 0.55" in stopped and "process 7" in stopped
    failed = client.get(f"{path}/resnet8-sam-0006").text
    assert "RuntimeError: &lt;img" in failed and EVIL not in failed
    assert "OSError: a worker died" in client.get(f"{path}/resnet8-sam-0007").text


def test_a_trial_and_what_it_printed(client_for, folder):
    client = client_for(folder)
    path = f"/searches/{only_id(client)}/trials/resnet8-sam-0000"
    assert "What it printed" not in client.get(path).text
    (folder / "logs").mkdir()
    (folder / "logs" / "resnet8-sam-0000.log").write_text(f"12:00:00 {EVIL}\n12:00:01 bye\n")
    page = client.get(path).text
    assert "12:00:01 bye" in page and EVIL not in page


def test_of_very_many_reports_some_are_kept(client_for, folder, monkeypatch):
    monkeypatch.setattr(live_results, "_MOST_KEPT", 30)
    with Ledger.open(folder) as ledger:
        for trial in ("resnet8-sam-0100", "resnet8-sam-0101"):
            start(ledger, trial, study="resnet8-sam", architecture="resnet8", max_epochs=40)
            for epoch in range(1, 41):
                decision = Decision("continue", 27, 0.1, 1) if epoch == 27 else Decision("continue")
                report(ledger, trial, epoch, epoch / 100, decision)
            ledger.finish_trial(trial, "interrupted", "test")
    live = LiveResults(folder)
    live.update()
    kept = live.results().epochs
    assert live.num_reports == 95 and live.stride == 8 and len(kept) <= 30
    assert (kept["epoch"] == 27).sum() == 2
    assert [row["epoch"] for row in live.reports("resnet8-sam-0101")] == list(range(1, 41))
    (picture,) = [
        p for p in budget_section(collect([live.results()])).pictures if p.name.startswith("anytime")
    ]
    # What is drawn last is what all trials have spent, but for epochs after the last that is kept.
    spent = sum(34 * row["epochs_trained"] for row in live.summaries.values())
    assert spent - 2 * 34 * 8 <= picture.figure.data[0].x[-1] <= spent
    client = client_for(folder)
    page = client.get(f"/searches/{only_id(client)}/report.json").json()
    assert "every 8th epoch" in page["sections"][0]["html"]


@pytest.mark.parametrize("below", ["", "/report.json", "/trials/resnet8-sam-0000"])
def test_pages_say_nothing_of_what_is_not_there(client_for, folder, below):
    client = client_for(folder)
    assert client.get(f"/searches/{'0' * 16}{below}").status_code == 404
    assert client.get(f"/searches/{only_id(client)}/trials/nix").status_code == 404


def test_a_damaged_ledger_is_said_to_be_one(client_for, folder):
    (folder / "ledger.sqlite").write_bytes(b"x" * 4096)
    client = client_for(folder)
    assert "unreadable" in client.get("/").text
    assert "cannot be read" in client.get(f"/searches/{only_id(client)}").text


def test_several_searches_are_compared(client_for, folder, tmp_path):
    other = tmp_path / "results" / "other"
    with Ledger.create(other, JOB | {"name": "other"}, {}) as ledger:
        write_trials(ledger)
    client = client_for(tmp_path / "results")
    ids = sorted(set(re.findall(r"/searches/([0-9a-f]{16})\"", client.get("/").text)))
    answer = client.get(f"/compare?search={ids[0]}&search={ids[1]}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/searches/{ids[0]},{ids[1]}")
    report = client.get(f"{answer.headers['location']}/report.json").json()
    assert "sam (other)" in report["sections"][0]["html"]
