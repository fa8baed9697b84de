"""What the server refuses: no token, other names, paths that lead elsewhere, requests of other sites."""

import re
import subprocess
import sys

import pytest

from tune_jobs.cli.app import main
from tune_jobs.serve.guard import Rules, is_loopback, rules_for

TOKEN = "t" * 43
OPEN, CLOSED = Rules(), Rules(token=TOKEN)
EVERY = ("/", "/events", "/static/live.js", "/compare?search=x", "/searches/x", "/searches/x/trials/y")


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize(
    "given", [{}, {"params": {"token": "x"}}, {"cookies": {"tune_jobs": "x"}}, {"cookies": {"tune_jobs": ""}}]
)
def test_without_the_token_there_is_nothing(client_for, folder, path, given):
    client = client_for(folder, rules=CLOSED)
    client.cookies.update(given.get("cookies", {}))
    assert client.get(path, params=given.get("params")).status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(client_for, folder):
    client = client_for(folder, rules=CLOSED)
    answer = client.get("/searches/x", params={"token": TOKEN, "a": "b"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/searches/x?a=b")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("rules", "host", "status"),
    [
        *(
            (OPEN, host, 200)
            for host in ("localhost", "localhost:99", "127.0.0.1", "[::1]:8420", "LOCALHOST")
        ),
        *(
            (OPEN, host, 421)
            for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1", "a@b:c")
        ),
        (Rules(frozenset({"box"}), any_ip=True), "box:80", 200),
        (Rules(frozenset({"box"}), any_ip=True), "10.0.0.1", 200),
        (Rules(frozenset({"box"}), any_ip=True), "evil.example", 421),
    ],
)
def test_only_our_own_names_are_answered(client_for, folder, rules, host, status):
    assert client_for(folder, rules=rules).get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("host", "needs", "has_token"),
    [("127.0.0.1", False, False), ("127.0.0.1", True, True), ("0.0.0.0", False, True), ("box", False, True)],
)
def test_beyond_loopback_there_is_a_token(host, needs, has_token):
    rules = rules_for(host, 8420, [], needs_token=needs)
    assert (rules.token is not None) is has_token
    assert is_loopback(host) is (host == "127.0.0.1")
    assert rules_for(host, 1, [], needs_token=True).token != rules_for(host, 1, [], needs_token=True).token


def test_a_given_token_stays_the_same():
    assert rules_for("127.0.0.1", 1, [], needs_token=False, token=TOKEN).token == TOKEN


@pytest.mark.parametrize(
    ("token", "words", "named"),
    [("short", ["serve"], "TUNE_JOBS_TOKEN"), ("", ["run", "digits", "--allow-stop"], "--allow-stop")],
)
def test_what_cannot_be_served_is_refused(monkeypatch, capsys, token, words, named):
    monkeypatch.setenv("TUNE_JOBS_TOKEN", token)
    with pytest.raises(SystemExit) as ended:
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line.partition(":")[0]) == (2, named)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/searches/..%2f..%2fetc",
        "/searches/%2e%2e/report.json",
        "/searches/{folder}",
        "/searches/x/trials/..%2f..%2fledger.sqlite",
    ],
)
def test_no_path_leads_to_a_file(client_for, folder, path):
    answer = client_for(folder).get(path.format(folder=str(folder).replace("/", "%2f")))
    assert answer.status_code == 404 and "root:" not in answer.text


def test_answers_forbid_everything_from_elsewhere(client_for, folder):
    for path in ("/", "/nix", "/static/live.js"):
        headers = client_for(folder).get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "://" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    page = client_for(folder).get("/").text
    assert not re.findall(r"(?:src|href|action)=\"(?:https?:)?//", page)


@pytest.fixture
def writer(folder):
    """A process that holds the ledger as a driver does, and says what signal it got."""
    code = (
        "import sys, time; from pathlib import Path; from tune_jobs.ledger.writer import Ledger\n"
        "ledger = Ledger.open(Path(sys.argv[1])); ledger.record_event('start'); print('open', flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: print('SIGINT', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def stop_form(client):
    (search,) = set(re.findall(r"/searches/([0-9a-f]{16})\"", client.get("/").text))
    found = re.search(r'name="csrf" value="(\w+)"', client.get(f"/searches/{search}").text)
    return f"/searches/{search}/stop", found and found.group(1)


OWN = {"origin": "http://127.0.0.1:8420"}


def test_a_search_is_stopped_by_its_own_form_only(client_for, folder, writer):
    client = client_for(folder, rules=CLOSED, allow_stop=True)
    client.cookies.set("tune_jobs", TOKEN)
    path, csrf = stop_form(client)
    assert csrf
    refused = [
        (403, {"data": {"csrf": csrf}}),  # nobody says where it is from
        (403, {"data": {"csrf": csrf}, "headers": {"origin": "http://evil.example"}}),
        (403, {"data": {"csrf": csrf}, "headers": {"origin": "null"}}),
        (403, {"data": {"csrf": csrf}, "headers": OWN | {"sec-fetch-site": "cross-site"}}),
        (403, {"data": {"csrf": "0" * 64}, "headers": OWN}),
        (403, {"headers": OWN}),
    ]
    for status, given in refused:
        assert client.post(path, **given).status_code == status, given
    assert client.get(path).status_code == 405
    without = client_for(folder, rules=CLOSED, allow_stop=True)
    assert without.post(path, data={"csrf": csrf}, headers=OWN).status_code == 401
    assert writer.poll() is None
    assert client.post(path, data={"csrf": csrf}, headers=OWN).status_code == 303
    assert writer.stdout.readline() == "SIGINT\n"


def test_without_the_option_nothing_can_be_stopped(client_for, folder, writer):
    client = client_for(folder, rules=CLOSED)
    client.cookies.set("tune_jobs", TOKEN)
    path, csrf = stop_form(client)
    assert csrf is None
    assert client.post(path, data={"csrf": "x"}, headers=OWN).status_code == 404
    assert writer.poll() is None


def test_without_the_packages_a_line_says_how_to_get_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit) as ended:
        main(["serve"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'zsharp-tune[serve]'" in line
