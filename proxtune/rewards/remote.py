"""A reward over HTTP: answers go to a server as JSON, scores come back, and whatever goes wrong has a reason.

    POST {"prompts": ["…", …], "responses": ["…", …], "columns": {"name": […], …}}      application/json
    200  {"scores": [0.3, …]}                     application/json; one number an answer, null where there is none

docs/rewards.md has the protocol in full, docs/examples/reward_server.py a server.
"""

import asyncio
import json
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import Any, TypeVar

import httpx2
from torch import Tensor

from proxtune.errors import ConfigError
from proxtune.rewards.base import Answers
from proxtune.rewards.budget import Budget, Outcome
from proxtune.rewards.combine import weight_of

TRIES = 3
BACKOFF = 0.5  # seconds before the second try, doubled before the third
IN_FLIGHT = 8  # requests at once
LARGEST = 2**20  # bytes of a response's body
HUGEST = 1e9  # a score beyond it is a mistake of the server

T = TypeVar("T")


class RemoteReward:
    """Scores from a server of the caller's own choice, and from nowhere else: redirects and proxies are not followed.

    Args:
        url: http or https.
        timeout: seconds that one call may take in all, however many requests and tries it comes to.
        max_failed: share of a call's answers that may go without a score, see `Budget`.
        batch: answers of a request; those of a request that fails have no score.
        token: sent as `Authorization: Bearer …`; it stands in no message.
    """

    def __init__(
        self, url: str, *, timeout: float = 30.0, max_failed: float = 0.05, batch: int = 1, token: str | None = None
    ) -> None:
        self.url, self.name = url, server_name(url)
        self.timeout, self.batch = timeout, batch
        self.budget = Budget(self.name, max_failed)
        self.headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, answers: Answers) -> Tensor:
        return self.budget.scores(_run(self._ask(self._requests(answers))))

    def _requests(self, answers: Answers) -> "list[_Request]":
        starts = range(0, len(answers.responses), self.batch)
        parts = [slice(start, min(start + self.batch, len(answers.responses))) for start in starts]
        return [_Request(answers.to_json(part), part.stop - part.start) for part in parts]

    async def _ask(self, requests: "list[_Request]") -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + self.timeout
        gate = asyncio.Semaphore(IN_FLIGHT)
        async with httpx2.AsyncClient(headers=self.headers, timeout=None, trust_env=False) as client:
            parts = await asyncio.gather(*(self._within(deadline, gate, client, request) for request in requests))
        return [outcome for part in parts for outcome in part]

    async def _within(
        self, deadline: float, gate: asyncio.Semaphore, client: httpx2.AsyncClient, request: "_Request"
    ) -> list[Outcome]:
        try:
            async with asyncio.timeout_at(deadline), gate:
                return await self._tries(deadline, client, request)
        except TimeoutError:
            last = f", after {request.failure}" if request.failure else ""
            return [f"no answer within {self.timeout:g} s (reward.timeout){last}"] * request.rows

    async def _tries(self, deadline: float, client: httpx2.AsyncClient, request: "_Request") -> list[Outcome]:
        for number in range(TRIES):
            try:
                return await self._post(client, request)
            except _Failed as failure:
                request.failure = failure.reason
                pause = max(BACKOFF * 2**number, failure.wait)
                late = asyncio.get_running_loop().time() + pause >= deadline
                if not failure.again or late or number == TRIES - 1:
                    break
            await asyncio.sleep(pause)
        return [request.failure + (f", {number + 1} tries" if number else "")] * request.rows

    async def _post(self, client: httpx2.AsyncClient, request: "_Request") -> list[Outcome]:
        try:
            async with client.stream("POST", self.url, content=request.body) as response:
                _check_head(response)
                body = await _read(response)
        except httpx2.ConnectError as error:
            raise _Failed(f"cannot connect ({error})", again=True) from error
        except httpx2.TransportError as error:
            raise _Failed(f"the connection broke, or spoke no HTTP ({type(error).__name__})", again=True) from error
        return _outcomes(body, request.rows)


@dataclass
class _Request:
    body: bytes
    rows: int
    failure: str = ""  # of the last try


class _Failed(Exception):  # noqa: N818 (it never leaves this file)
    """Why a try brought no scores, and whether another one may.

    Nothing that the server sent stands in the reason: a server may echo the token.
    """

    def __init__(self, reason: str, *, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait = reason, again, wait


def server_name(url: str) -> str:
    """`https://judge:8000/score?model=2` -> `judge:8000/score`. Raises ConfigError: no URL that answers may go to."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigError(f"{url!r} is not an http or https URL; write it as in http://localhost:8000/score")
    if parsed.userinfo:
        raise ConfigError(
            f"the URL for {parsed.host} holds a password; name an environment variable in reward.token_env"
        )
    return (parsed.netloc.decode() + parsed.path).rstrip("/")


def split_weight(text: str) -> tuple[str, float]:
    """`URL` or `URL=WEIGHT` -> (URL, weight); 1 where none is given.

    The last `=` of a query's last `key=value` belongs to the URL: `…?model=2` has no weight, `…?model=2=0.5` has 0.5.

    Raises ConfigError: what follows the URL is not a number.
    """
    url, equals, weight = text.rpartition("=")
    if not equals or ("?" in url and "=" not in re.split("[?&]", url)[-1]):
        return text, 1.0
    try:
        return url, weight_of(weight)
    except ValueError as error:
        raise ConfigError(
            f"{text}: the weight {weight!r} is not a number; write an = of the path itself as %3D"
        ) from error


def _check_head(response: httpx2.Response) -> None:
    """Refuse what cannot be a list of scores before its body is read."""
    status, kind = response.status_code, response.headers.get("content-type", "").partition(";")[0].strip()
    if response.has_redirect_location:
        host = response.url.join(response.headers["location"]).host
        raise _Failed(f"HTTP {status} redirects to {host}, which is not followed; name the final URL")
    if status in {408, 429} or status >= 500:
        wait = _seconds(response.headers.get("retry-after", ""))
        raise _Failed(f"HTTP {status}" + (f" (retry after {wait:.0f} s)" if wait else ""), again=True, wait=wait)
    if status != 200:
        raise _Failed(f"HTTP {status}")
    if kind != "application/json":
        raise _Failed(f"the response is {kind or 'of no content type'}, not application/json")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _Failed("the response is compressed")


async def _read(response: httpx2.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > LARGEST:
            raise _Failed(f"the response is longer than {LARGEST} bytes")
    return body


def _outcomes(body: bytes, rows: int) -> list[Outcome]:
    if not body:
        raise _Failed("the response is empty")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Failed(f"the response ({len(body)} bytes) is not JSON") from error
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list):
        raise _Failed('the response has no list "scores"')
    if len(scores) != rows:
        raise _Failed(f"{len(scores)} scores for {rows} answers")
    return [_outcome(score) for score in scores]


def _outcome(score: Any) -> Outcome:
    if score is None:
        return "null for a score"
    if isinstance(score, bool) or not isinstance(score, int | float):
        return f"a {type(score).__name__} for a score"
    if not abs(score) <= HUGEST:
        return f"NaN or beyond ±{HUGEST:g} for a score"
    return float(score)


def _seconds(retry_after: str) -> float:
    """What a server asks to wait: a number of seconds, or a date; 0 where it asks nothing."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from an event loop in a thread of its own: the caller, a notebook, may be in one.

    Nothing is waited for after the result, not even a name look-up that hangs.
    """
    loop = asyncio.new_event_loop()

    def drive() -> None:
        loop.run_forever()
        loop.close()

    Thread(target=drive, daemon=True).start()
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
