"""The live page of a search in an object store, which it finds below an address and follows as it is written."""

import sys

from live_ledger import JOB, write_trials

from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.trial_log import TrialLog
from tune_jobs.serve.searches import Searches
from tune_jobs.storage import RemoteFolder


def test_a_search_in_a_store_is_found_and_followed(address, monkeypatch):
    for name in ("stdout", "stderr"):  # which the log of a worker replaces
        monkeypatch.setattr(sys, name, getattr(sys, name))
    above, address = address, f"{address}/tiny"
    assert RemoteFolder(above).folders() == []
    with SearchFolder(address, writes=True).create(JOB, {}) as ledger:
        ledger.record_event("start", {})
        write_trials(ledger, 0, 2)
        assert RemoteFolder(above).folders() == ["tiny"]
        searches = Searches([above])
        (search,) = searches.all()
        search.refresh()
        assert search.address == address and search.problem is None
        assert (search.summary.state, search.summary.num_ended) == ("open", 2)
        write_trials(ledger, 2, 2)
        search._read_s = 0.0
        search.refresh()
        assert search.summary.num_ended == 4
        assert search.lines_of("resnet8-sam-0001", 9) == []
        log = TrialLog(SearchFolder(address))
        log.begin("resnet8-sam-0000")
        print("a line of a worker elsewhere")
        log.end()
        (line,) = search.lines_of("resnet8-sam-0000", 9)
        assert line.endswith("a line of a worker elsewhere")
    searches.close()
    assert not search.live.folder.parent.exists()
