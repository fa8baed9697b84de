"""deploy/local_cluster.py without a Ray: whom it gives its token to."""

import json
import runpy
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

LocalCluster = runpy.run_path(str(Path(__file__).parents[2] / "deploy" / "local_cluster.py"))["LocalCluster"]


def test_the_token_passes_no_proxy(tmp_path, monkeypatch):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 5.0
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name in ("http_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9" if name == "http_proxy" else "")
        (tmp_path / "cluster.json").write_text(json.dumps({"dashboard": address}))
        (tmp_path / "token").write_text("abc")
        assert LocalCluster(tmp_path).alive() == []
        thread.join()
    assert asked == ["/api/v0/nodes"], "it was asked itself"


def test_a_token_file_of_somebody_else_is_not_filled(tmp_path):
    (tmp_path / "token").touch(mode=0o666)
    with pytest.raises(FileExistsError):
        LocalCluster(tmp_path).start_head()
    assert (tmp_path / "token").read_text() == ""
