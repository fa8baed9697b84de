"""Ray's client for job servers, made to send its requests as we send ours."""

import json
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from tune_jobs.submit.http import Answer, send


class BoundedClient(JobSubmissionClient):
    """A `JobSubmissionClient` that trusts the server as little as `tune_jobs.submit.http.send` does.

    Ray's own would follow redirects, use proxies for this machine, wait without end and read answers of any size.
    """

    def _do_request(  # type: ignore[override]  # only what Ray reads of a Response
        self,
        method: str,
        endpoint: str,
        *,
        data: bytes | None = None,
        json_data: dict[str, Any] | None = None,
        **_: Any,
    ) -> Answer:
        headers = dict(self._headers)
        if json_data is not None:
            data = json.dumps(json_data).encode()
            headers["Content-Type"] = "application/json"
        elif data is not None:
            headers["Content-Type"] = "application/octet-stream"
        answer = send(method, self._address + endpoint, headers, data)
        if answer.status_code in {401, 403}:
            raise AuthenticationError(f"status code {answer.status_code}")
        return answer
