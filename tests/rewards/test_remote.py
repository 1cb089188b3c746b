"""RW-1, RW-4: a reward over HTTP: whatever the server does costs bounded time and tries, has a reason, and is no 0."""

import importlib.util
import itertools
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from proxtune.data.collate import collate
from proxtune.errors import ConfigError, RewardError
from proxtune.rewards import remote
from proxtune.rewards.base import Answers
from proxtune.rewards.remote import RemoteReward, server_name, split_weight
from tests.faults import FAULTS, Body, Fault, FaultServer, Handler, scores, well

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.01)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def answers(count: int, **columns: list[Any]) -> Answers:
    responses = ["x" * (1 + i % 7) for i in range(count)]
    return Answers([f"prompt {i}" for i in range(count)], responses, collate([[2]] * count, [[4]] * count), columns)


def lengths(count: int) -> list[float]:
    return [float(1 + i % 7) for i in range(count)]


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_scores_come_back_in_the_order_of_the_answers(server: FaultServer, batch: int) -> None:
    reward = RemoteReward(server.url, batch=batch)
    assert reward(answers(40)).tolist() == lengths(40)
    assert len(server.asked) == math.ceil(40 / batch)


def test_the_server_gets_texts_and_columns_row_by_row(server: FaultServer) -> None:
    RemoteReward(server.url, batch=2)(answers(3, answer=["é", None, 3], level=[[1], {"a": 2}, True]))
    assert sorted(server.asked, key=lambda body: str(body["prompts"])) == [
        {
            "prompts": ["prompt 0", "prompt 1"],
            "responses": ["x", "xx"],
            "columns": {"answer": ["é", None], "level": [[1], {"a": 2}]},
        },
        {"prompts": ["prompt 2"], "responses": ["xxx"], "columns": {"answer": [3], "level": [True]}},
    ]


def test_the_example_server_speaks_the_protocol() -> None:
    spec = importlib.util.spec_from_file_location("reward_server", ROOT / "docs/examples/reward_server.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.Brevity.log_message = lambda *args: None
    with example.Server(("127.0.0.1", 0), example.Brevity) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        got = RemoteReward(f"http://127.0.0.1:{server.server_port}/brevity", batch=4)(answers(40))
        server.shutdown()
    assert got.tolist() == pytest.approx([-x / 100 for x in lengths(40)])


def test_half_a_surrogate_pair_in_an_answer_is_sent_all_the_same(server: FaultServer) -> None:
    asked = Answers(["a"], ["\ud83d"], collate([[2]], [[4]]), {})
    assert RemoteReward(server.url)(asked).tolist() == [1.0]


@pytest.mark.parametrize("value", [object(), math.nan])
def test_a_column_that_is_not_json_is_the_callers_mistake(server: FaultServer, value: object) -> None:
    with pytest.raises(RewardError, match="a column of the data cannot be sent to the reward as JSON"):
        RemoteReward(server.url)(answers(1, odd=[value]))
    assert server.asked == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_rw1_a_misbehaving_server_costs_bounded_time_and_tries_and_gives_no_score(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultServer(fault) as server:
        reward = RemoteReward(server.url, timeout=0.5, max_failed=1, batch=2)
        began = time.monotonic()
        assert reward(answers(2)).isnan().tolist() == [True, True]
        assert time.monotonic() - began < 0.5 + 0.5  # the deadline, and as much again for a busy machine
        assert len(server.asked) == fault.tries
    reason = re.search(r"gave no score to 2 of 2 answers: 2 × (.*); left out of this step$", caplog.text.strip())
    assert reason
    assert re.search(fault.reason, reason[1])


def test_rw1_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take the port
        reward = RemoteReward(f"http://127.0.0.1:{taken.getsockname()[1]}", max_failed=1)
        assert reward(answers(1)).isnan().all()
    assert re.search(r"cannot connect \(.*\), 3 tries", caplog.text)


def test_rw1_a_name_that_never_resolves_costs_the_deadline(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = threading.Event()

    def hang(*args: object, **kwargs: object) -> object:
        found.wait(5)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    assert RemoteReward("http://judge.example", timeout=0.3, max_failed=1)(answers(1)).isnan().all()
    assert time.monotonic() - began < 0.3 + 0.5
    found.set()
    time.sleep(0.05)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("broken", [1, 2])
def test_rw1_a_server_that_recovers_in_three_tries_has_failed_nothing(
    broken: int, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(handler: Handler, body: Body, number: int) -> None:
        handler.answer(b"", 503) if number < broken else well(handler, body, number)

    with FaultServer(behave) as server:
        assert RemoteReward(server.url)(answers(1)).tolist() == [1.0]
        assert len(server.asked) == broken + 1
    assert caplog.text == ""


def test_rw1_the_pause_before_a_try_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.1)
    times: list[float] = []

    def behave(handler: Handler, body: Body, number: int) -> None:
        times.append(time.monotonic())
        handler.answer(b"", 500)

    with FaultServer(behave) as server:
        RemoteReward(server.url, max_failed=1)(answers(1))
    first, second = (later - earlier for earlier, later in itertools.pairwise(times))
    assert 0.1 <= first < second
    assert second >= 0.2


@pytest.mark.parametrize(
    ("header", "seconds"), [("1", 1.0), ("date", 1.0), ("soon", 0.0), ("-5", 0.0), ("²", 0.0), ("", 0.0)]
)
def test_rw1_retry_after_is_a_number_or_a_date(header: str, seconds: float) -> None:
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=1.4), usegmt=True)
    assert remote._seconds(header) == pytest.approx(seconds, abs=1.0 if "GMT" in header else 0)


def test_rw1_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_seconds", lambda header: float(header or 0) / 10)  # tenths, so as not to wait long

    def behave(handler: Handler, body: Body, number: int) -> None:
        handler.answer(b"", 429, Retry_After="3") if number == 0 else well(handler, body, number)

    with FaultServer(behave) as server:
        began = time.monotonic()
        assert RemoteReward(server.url, timeout=5)(answers(1)).tolist() == [1.0]
        assert time.monotonic() - began >= 0.3


def test_rw1_a_request_that_fails_costs_its_own_answers_alone() -> None:
    def behave(handler: Handler, body: Body, number: int) -> None:
        handler.answer(b"", 400) if "prompt 5" in body["prompts"] else well(handler, body, number)

    with FaultServer(behave) as server:
        got = RemoteReward(server.url, batch=2, max_failed=0.1)(answers(40))
    assert got.isnan().nonzero().flatten().tolist() == [4, 5]
    assert got[~got.isnan()].tolist() == [x for i, x in enumerate(lengths(40)) if i not in (4, 5)]


def test_a_null_costs_its_own_answer_alone() -> None:
    with FaultServer(lambda handler, body, number: handler.answer(scores(1, None))) as server:
        got = RemoteReward(server.url, batch=2, max_failed=0.5)(answers(2))
    assert got[0] == 1
    assert got[1].isnan()


def test_at_most_eight_requests_are_under_way_at_once() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def behave(handler: Handler, body: Body, number: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        well(handler, body, number)

    with FaultServer(behave) as server:
        RemoteReward(server.url)(answers(40))
    assert 2 <= most <= 8


def test_it_works_where_an_event_loop_is_running_already(server: FaultServer) -> None:
    import asyncio

    async def notebook() -> list[float]:
        return RemoteReward(server.url)(answers(2)).tolist()

    assert asyncio.run(notebook()) == [1.0, 2.0]


def test_rw4_the_token_is_sent_and_an_echo_of_it_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The server sends the token back in a body, a status line, a header and a redirect."""
    secret = "canary-5f2c"
    echoes = (
        lambda h: h.answer(secret.encode()),
        lambda h: h.answer(b"{}", 400, X_Token=secret),
        lambda h: h.wfile.write(f"HTTP/1.1 {secret}\r\n\r\n".encode()),
        lambda h: h.answer(b"", 302, Location=f"http://elsewhere/?token={secret}"),
        lambda h: h.answer(scores(secret)),
    )
    caplog.set_level(logging.DEBUG)
    for echo in echoes:
        with FaultServer(lambda handler, body, number, echo=echo: echo(handler)) as server:  # type: ignore[misc]
            with pytest.raises(RewardError) as caught:
                RemoteReward(server.url, token=secret)(answers(1))
            assert server.headers[0]["Authorization"] == f"Bearer {secret}"
        assert secret not in str(caught.value)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("proxtune")]
    assert secret not in "".join(ours)


def test_rw4_a_redirect_is_not_followed_even_where_it_would_lead_to_scores(server: FaultServer) -> None:
    with FaultServer(lambda handler, body, number: handler.answer(b"", 307, Location=server.url)) as first:
        assert RemoteReward(first.url, max_failed=1)(answers(1)).isnan().all()
    assert server.asked == []


def test_rw4_no_proxy_and_no_netrc_of_the_environment_is_used(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password canary-9a1d\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert RemoteReward(server.url)(answers(1)).tolist() == [1.0]
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://localhost:8000/score", "localhost:8000/score"),
        ("https://judge.example/", "judge.example"),
        ("https://judge.example/a/b?model=2&key=x", "judge.example/a/b"),
    ],
)
def test_a_server_is_called_by_its_place(url: str, name: str) -> None:
    assert server_name(url) == name
    assert RemoteReward(url).name == name


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://judge/score", "is not an http or https URL"),
        ("file:///etc/passwd", "is not an http or https URL"),
        ("judge:8000/score", "is not an http or https URL"),
        ("http://", "is not an http or https URL"),
        ("http://a b\n", "is not a URL"),
        ("http://me:canary@judge/", r"the URL for judge holds a password; name an environment variable"),
    ],
)
def test_rw4_what_is_no_web_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RemoteReward(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "url", "weight"),
    [
        ("http://judge/score", "http://judge/score", 1.0),
        ("http://judge/score=0.5", "http://judge/score", 0.5),
        ("http://judge/score=-2", "http://judge/score", -2.0),
        ("http://judge/score?model=2", "http://judge/score?model=2", 1.0),
        ("http://judge/score?model=2=0.5", "http://judge/score?model=2", 0.5),
        ("http://judge/score?a=1&model=2", "http://judge/score?a=1&model=2", 1.0),
        ("http://judge/score?a=1&model=2=3", "http://judge/score?a=1&model=2", 3.0),
        ("http://judge/score?a=1&flag", "http://judge/score?a=1&flag", 1.0),
        ("http://judge/a=b/score=3", "http://judge/a=b/score", 3.0),
    ],
)
def test_an_equals_sign_of_a_query_is_no_weight(text: str, url: str, weight: float) -> None:
    assert split_weight(text) == (url, weight)


@pytest.mark.parametrize("text", ["http://judge/score=much", "http://judge/score=", "http://judge/a=b/score", "u=nan"])
def test_a_weight_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number"):
        split_weight(text)
