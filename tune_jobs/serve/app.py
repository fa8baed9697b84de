"""The server's pages: which address shows what, and how pages hear of changes."""

import asyncio
import hashlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from threading import Lock

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tune_jobs.report.page import Section
from tune_jobs.serve.elements import search_path, tag, trial_path
from tune_jobs.serve.front import front_sections
from tune_jobs.serve.guard import Guard, Rules
from tune_jobs.serve.search_page import now_sections, report_sections
from tune_jobs.serve.searches import Search, Searches
from tune_jobs.serve.shell import as_json, shell, static_files
from tune_jobs.serve.stop import can_stop, stop
from tune_jobs.serve.trial_page import trial_sections

_LOOK_EVERY_S = 1.0
_FIRST_S = 0.5  # that a page waits for ledgers before it is drawn
_SIGN_OF_LIFE_S = 15.0
_REST = 4.0  # times what a report took to make, before it is made again
_MOST_REPORTS = 8  # kept
_MOST_TOGETHER = 8


def make_app(searches: Searches, rules: Rules, *, allow_stop: bool = False) -> Starlette:
    """Returns the server's application.

    Args:
        searches: What it shows.
        rules: Who may ask.
        allow_stop: Whether pages have a button that stops a search; the rules must have a token.
    """
    assert rules.token is not None or not allow_stop, "stopping needs a token"
    site = _Site(searches, rules, allow_stop)
    routes = [
        Route("/", site.front),
        Route("/events", site.front_events),
        Route("/compare", site.compare),
        Route("/static/{name}", site.static),
        Route("/searches/{ids}", site.search),
        Route("/searches/{ids}/events", site.search_events),
        Route("/searches/{ids}/report.json", site.report),
        Route("/searches/{ids}/stop", site.stop, methods=["POST"]),
        Route("/searches/{ids}/trials/{trial}", site.trial),
        Route("/searches/{ids}/trials/{trial}/events", site.trial_events),
    ]
    middleware = [Middleware(Guard, rules=rules), Middleware(GZipMiddleware, compresslevel=3)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={404: _not_found})
    app.state.site = site
    return app


class _Site:
    def __init__(self, searches: Searches, rules: Rules, allow_stop: bool) -> None:
        self._searches, self._rules, self._allow_stop = searches, rules, allow_stop
        self._static = static_files()
        self._reports: OrderedDict[tuple[str, ...], _Report] = OrderedDict()
        self._reading: set[asyncio.Future[object]] = set()
        self.is_closing = False

    async def front(self, request: Request) -> Response:
        await self._begin(lambda: _refresh(self._searches.all()))
        sections = await run_in_threadpool(front_sections, self._searches, refresh=False)
        return HTMLResponse(shell("Searches", "/", sections))

    async def front_events(self, request: Request) -> Response:
        return self._events(lambda: front_sections(self._searches))

    async def compare(self, request: Request) -> Response:
        ids = request.query_params.getlist("search")
        if not ids:
            return RedirectResponse("/", 303)
        searches = await run_in_threadpool(self._named, ",".join(ids))
        return RedirectResponse(search_path(*(search.id for search in searches)), 303)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404)
        text, kind = self._static[name]
        tag_ = f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
        headers = {"ETag": tag_, "Cache-Control": "private, max-age=60"}
        if request.headers.get("if-none-match") == tag_:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type=kind, headers=headers)

    async def search(self, request: Request) -> Response:
        searches = await run_in_threadpool(self._named, request.path_params["ids"])
        await self._begin(lambda: _refresh(searches))
        sections = await run_in_threadpool(self._now, searches, 0.2)
        title = " and ".join(search.summary.name if search.summary else search.name for search in searches)
        return HTMLResponse(shell(title, request.url.path, sections, has_report=True))

    async def search_events(self, request: Request) -> Response:
        searches = await run_in_threadpool(self._named, request.path_params["ids"])
        return self._events(lambda: self._refreshed(searches), self._report_of(searches).due)

    async def report(self, request: Request) -> Response:
        searches = await run_in_threadpool(self._named, request.path_params["ids"])
        await run_in_threadpool(_refresh, searches)
        text = await run_in_threadpool(self._report_of(searches).text)
        return Response(text, media_type="application/json")

    async def stop(self, request: Request) -> Response:
        searches = await run_in_threadpool(self._named, request.path_params["ids"])
        if not self._allow_stop or len(searches) != 1:
            raise HTTPException(404)
        await run_in_threadpool(searches[0].refresh)
        given = (await request.body())[:1000].decode(errors="replace").removeprefix("csrf=")
        if not hmac.compare_digest(given.encode(), self._rules.csrf(f"stop {searches[0].id}").encode()):
            return PlainTextResponse("The form is not one of this server's.\n", 403)
        problem = await run_in_threadpool(stop, searches[0])
        if problem is not None:
            return PlainTextResponse(f"{problem}\n", 409)
        return RedirectResponse(search_path(searches[0].id), 303)

    async def trial(self, request: Request) -> Response:
        sections, path = await self._trial(request)
        title = request.path_params["trial"]
        return HTMLResponse(shell(title, path, sections))

    async def trial_events(self, request: Request) -> Response:
        await self._trial(request)
        (search,) = self._named(request.path_params["ids"])
        trial_id = request.path_params["trial"]
        return self._events(lambda: trial_sections(search, trial_id) or [])

    async def _trial(self, request: Request) -> tuple[list[Section], str]:
        searches = await run_in_threadpool(self._named, request.path_params["ids"])
        if len(searches) != 1:
            raise HTTPException(404)
        trial_id = request.path_params["trial"]
        sections = await run_in_threadpool(trial_sections, searches[0], trial_id)
        if sections is None:
            raise HTTPException(404)
        return sections, trial_path(searches[0].id, trial_id)

    def _named(self, ids: str) -> list[Search]:
        names = list(dict.fromkeys(ids.split(",")))
        searches = [search for name in names[:_MOST_TOGETHER] if (search := self._searches.find(name))]
        if not searches or len(searches) != len(names):
            raise HTTPException(404)
        return searches

    async def _begin(self, read: Callable[[], object]) -> None:
        """Starts to read ledgers, and waits a moment: a page is drawn before a large one has been read."""
        task = asyncio.ensure_future(run_in_threadpool(read))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        await asyncio.wait([task], timeout=_FIRST_S)

    def _refreshed(self, searches: Sequence[Search]) -> list[Section]:
        _refresh(searches)
        return self._now(searches)

    def _now(self, searches: Sequence[Search], wait_s: float = -1) -> list[Section]:
        form = None
        if self._allow_stop and len(searches) == 1 and can_stop(searches[0]):
            path = f"{search_path(searches[0].id)}/stop"
            csrf = self._rules.csrf(f"stop {searches[0].id}")
            form = tag(
                "form",
                tag("input", type="hidden", name="csrf", value=csrf),
                tag("button", "Stop this search", class_="stop"),
                tag("small", "as Ctrl-C does: running epochs have 15 s to end, and it can be resumed"),
                action=path,
                method="post",
            )
        return now_sections(searches, form, wait_s=wait_s)

    def _report_of(self, searches: Sequence[Search]) -> "_Report":
        key = tuple(search.id for search in searches)
        report = self._reports.pop(key, None) or _Report(searches)
        self._reports[key] = report
        while len(self._reports) > _MOST_REPORTS:
            self._reports.popitem(last=False)
        return report

    def _events(
        self, sections: Callable[[], list[Section]], due: Callable[[], str | None] | None = None
    ) -> Response:
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(
            self._changes(sections, due), media_type="text/event-stream", headers=headers
        )

    async def _changes(
        self, sections: Callable[[], list[Section]], due: Callable[[], str | None] | None
    ) -> AsyncIterator[str]:
        sent, told, said_s = "", None, time.monotonic()
        while not self.is_closing:
            now = await run_in_threadpool(lambda: as_json(sections()))
            if now != sent:
                yield f"event: now\ndata: {now}\n\n"
                sent, said_s = now, time.monotonic()
            if due is not None and (version := due()) is not None and version != told:
                yield f"event: report\ndata: {json.dumps(version)}\n\n"
                told, said_s = version, time.monotonic()
            if time.monotonic() - said_s > _SIGN_OF_LIFE_S:
                yield ": here\n\n"
                said_s = time.monotonic()
            await asyncio.sleep(_LOOK_EVERY_S)


class _Report:
    """The report of some searches as it was last made; it takes its time with large ones."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = list(searches)
        self._lock = Lock()
        self._text, self._version = "", ""
        self._made_s, self._took_s = -float("inf"), 0.0

    def due(self) -> str | None:
        """Returns which version pages should show: the newest, unless a report was made a moment ago."""
        if time.monotonic() - self._made_s < _REST * self._took_s:
            return self._version
        if not all(search.live.is_complete for search in self._searches):
            return None
        return self._newest()

    def text(self) -> str:
        """Returns the report as JSON, made anew if it is due."""
        with self._lock:
            version = self.due()
            if version is None:
                return as_json([])
            if version != self._version or not self._text:
                started_s = time.monotonic()
                version = self._newest()
                self._text = as_json(report_sections(self._searches))
                self._version, self._made_s = version, time.monotonic()
                self._took_s = self._made_s - started_s
            return self._text

    def _newest(self) -> str:
        return " ".join(f"{search.live.version}" for search in self._searches)


def _refresh(searches: Sequence[Search]) -> None:
    for search in searches:
        search.refresh()


async def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse("There is no such page: searches are in the list at /.\n", 404)
