"""Ray's client of its job API, with settings that it has no option for."""

from collections.abc import Callable
from typing import Any

from ray.job_submission import JobSubmissionClient
from requests import PreparedRequest

from workers.ray_internals.phrases import NO_SUCH_JOB

NO_PROXY = {"http": "", "https": ""}  # the dashboard is the farm's own: a proxy of this shell's has no part in it


class Client(JobSubmissionClient):
    """Ray's own, which would wait for ever, call a proxy, and let a ~/.netrc replace the secret."""

    def __init__(self, url: str, secret: str, seconds: float, answering: Callable[[], None]):
        self._seconds, self._secret, self._answering = seconds, secret, answering
        super().__init__(url, headers={"Authorization": f"Bearer {secret}"})

    def _do_request(self, *words: Any, **options: Any) -> Any:
        self._answering()
        return super()._do_request(*words, timeout=self._seconds, proxies=NO_PROXY, auth=self._sign, **options)

    def _sign(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._secret}"
        return request

    def knows_no(self, job: str) -> bool:
        """Whether Ray answers that it has no such job. Raises: what the client raises."""
        answer = self._do_request("GET", f"/api/jobs/{job}")
        return answer.status_code == 404 and NO_SUCH_JOB in answer.text
