"""Twenty people at work while the app is killed: what is lost, what is doubled, and how long a page takes.

The app is `proxtune label serve` in a process of its own, which `kill -9` ends in the middle and which is started again
at once. Each person opens the page, takes an item and answers it, every two seconds (an open loop: who is late does not
make others wait); afterwards all as fast as they can (a closed loop). Whatever a person is told is recorded stands in a
log, which the database and the export are compared with.
"""

import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any, NamedTuple

import httpx2
import numpy as np

from proxtune.evaluation.record import write_record
from proxtune.feedback.export import export
from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.simulated import Asked, Browser, Noisy, Recorded
from proxtune.feedback.store import Store

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "results" / "people"
EVERY = 2.0  # seconds between two answers of a person in the open loop
GOAL = 100.0  # milliseconds, the 95th percentile
SETTLED = 3.0  # seconds after a restart from which times count as undisturbed
MEASURES = ["proxtune/feedback/web", "proxtune/feedback/store", "proxtune/feedback/export.py"]


class Timed(NamedTuple):
    """What took how long: `began` and `seconds` of the monotonic clock."""

    what: str
    began: float
    seconds: float


@dataclass
class Load:
    """All that was seen."""

    times: list[Timed] = field(default_factory=list)
    acknowledged: list[Recorded] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    kills: list[tuple[float, float]] = field(default_factory=list)  # when it died, and when it answered again
    closed: tuple[int, float] = (0, 0.0)  # answers in so many seconds

    def times_of(self, what: str) -> list[float]:
        """Milliseconds of what was not under way when the app was down."""
        return [
            1000 * one.seconds
            for one in self.times
            if one.what == what
            and not any(one.began < up + SETTLED and one.began + one.seconds > down for down, up in self.kills)
        ]


class App:
    """The app as a process, on a port of its own."""

    def __init__(self, store: Path) -> None:
        self.store = store
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "proxtune", "label", "serve", "--store", str(self.store), "--port"]
        self.process = subprocess.Popen([*command, str(self.port)], cwd=ROOT, stdout=subprocess.DEVNULL)
        while self.process.poll() is None:
            try:
                httpx2.get(f"{self.url}/login", trust_env=False)
            except httpx2.TransportError:
                time.sleep(0.05)
            else:
                return
        sys.exit("the app did not start")

    def kill(self) -> tuple[float, float]:
        """End it at once, as kill -9 does, and start it again; returns when it died, and when it answered again."""
        died = time.monotonic()
        self.process.kill()
        self.process.wait()
        self.start()
        return died, time.monotonic()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def items(count: int) -> Iterator[Item]:
    """Pairs of answers of about 60 words, for two people each."""
    luck = Random(1)  # noqa: S311 (no secret)
    words = ["film", "plot", "good", "bad", "scene", "actor", "the", "a", "is", "was", "very", "music", "long", "end"]
    for number in range(count):
        texts = [" ".join(luck.choices(words, k=60)) for _ in range(2)]
        answers = tuple(Candidate(text=text, source=source) for text, source in zip(texts, "ab", strict=True))
        yield Item(kind="pair", prompt=f"Prompt {number}: say more.", candidates=answers, overlap=2, batch="load")


def measure(
    folder: Path, *, count: int, people: int, open_seconds: float, closed_seconds: float, kills: int
) -> tuple[Load, dict[str, int]]:
    """(what was seen, what is wrong by `wrong`) of a run in a new folder."""
    path, load = folder / "labels.db", Load()
    with Store.create(path) as store:
        store.queue.add(items(count))
        app = App(path)
        browsers = [Browser(app.url, f"person {number}") for number in range(people)]
        for browser in browsers:
            browser.client.event_hooks = {"response": [lambda answer: load.statuses.update([answer.status_code])]}
            browser.join(store.people.invite("annotator"), "a password of theirs")
    begin = time.monotonic() + 1.0
    killers = [
        Timer(1.0 + open_seconds * (number + 1) / (kills + 1), lambda: load.kills.append(app.kill()))
        for number in range(kills)
    ]
    for killer in killers:
        killer.start()
    _together(
        browsers,
        lambda place: _in_turn(browsers[place], load, begin + EVERY * place / people, begin + open_seconds),
    )
    for killer in killers:
        killer.join()
    before, began = len(load.acknowledged), time.monotonic()
    _together(browsers, lambda place: _in_turn(browsers[place], load, None, began + closed_seconds))
    load.closed = (len(load.acknowledged) - before, time.monotonic() - began)
    app.stop()
    return load, wrong(path, load.acknowledged)


def _together(browsers: Sequence[Browser], work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(len(browsers)) as pool:
        list(pool.map(work, range(len(browsers))))


def _in_turn(browser: Browser, load: Load, first: float | None, end: float) -> None:
    """One person's work until `end`: at `first` and every two seconds from there, or without a pause."""
    phase, tick = ("closed" if first is None else "open"), first
    while time.monotonic() < end and (tick is None or tick < end):
        if tick is not None:
            time.sleep(max(0.0, tick - time.monotonic()))
            load.times.append(Timed("late", tick, time.monotonic() - tick))
            tick += EVERY
        moments = [time.monotonic()]
        if first is not None:
            browser.send("GET", "/work")
            moments.append(time.monotonic())
        shown = browser.next()
        if shown is None:
            return
        moments.append(time.monotonic())
        body = Noisy(_length).answer(Asked(shown["kind"], "", shown["candidates"]), Random(0)).body  # noqa: S311
        recorded = browser.submit(shown["id"], body, shown["revision"])
        moments.append(time.monotonic())
        names = ("page", "next", "submit") if first is not None else ("next", "submit")
        took = zip(names, pairwise(moments), strict=True)
        load.times.extend(Timed(f"{phase} {name}", one, other - one) for name, (one, other) in took)
        if recorded is not None:
            load.acknowledged.append(recorded)


def _length(_: str, text: str) -> float:
    return len(text)


def wrong(path: Path, acknowledged: Sequence[Recorded]) -> dict[str, int]:
    """How much is lost, doubled, unknown to those who said it, or differs between the database and the export."""
    with sqlite3.connect(path) as database:
        names = "SELECT people.name, item, revision, request FROM judgements JOIN people ON people.id = person"
        rows = [Recorded(*row) for row in database.execute(names)]
        bodies = "SELECT item, revision, body FROM judgements ORDER BY id"
        stored = [(item, revision, json.loads(body)) for item, revision, body in database.execute(bodies)]
        (intact,) = database.execute("PRAGMA integrity_check").fetchone()
    database.close()
    with Store.open(path) as store:
        exported = [(row["item"], row["revision"], row["body"]) for row in export(store, "events")]
        each = sum(1 for _ in export(store, "reward", policy="each"))
    preferred = sum(body["preference"] != 0 for _, _, body in stored)
    return {
        "lost": len(set(acknowledged) - set(rows)),
        "doubled": len(rows) - len({(row.person, row.item) for row in rows}),
        "unknown": len(set(rows) - set(acknowledged)),
        "differs in the export": sum(a != b for a, b in zip(stored, exported, strict=False))
        + abs(len(stored) - len(exported))
        + abs(each - preferred),
        "not intact": int(intact != "ok"),
    }


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th of milliseconds, the slowest, and how many there are."""
    found = {f"p{share}": round(float(np.percentile(times, share)), 1) for share in (50, 95, 99)}
    return {**found, "slowest": round(max(times), 1), "count": len(times)}


def load(folder: Path, command: str) -> None:
    """Measure for about three minutes, and write the records."""
    sizes: dict[str, Any] = {"count": 10_000, "people": 20, "open_seconds": 120.0, "closed_seconds": 20.0, "kills": 2}
    began, before = time.monotonic(), _cpu()
    seen, bad = measure(folder, **sizes)
    own, app = (after - earlier for after, earlier in zip(_cpu(), before, strict=True))
    answers, seconds = seen.closed
    whats = ("open page", "open next", "open submit", "late", "closed next", "closed submit")
    raw = {
        "sizes": sizes,
        "acknowledged": len(seen.acknowledged),
        "wrong": bad,
        "down": [round(up - died, 1) for died, up in seen.kills],
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "milliseconds": {what: percentiles(seen.times_of(what)) for what in whats},
        "closed loop": {
            "answers a second": round(answers / seconds, 1),
            "transactions a second": 2 * answers / seconds,
        },
        "cpu seconds": {"app": round(app), "people": round(own), "of": round(time.monotonic() - began)},
        "others at work": round(os.getloadavg()[1], 1),
    }
    print(json.dumps(raw, indent=1))
    common: dict[str, Any] = {"against": None, "seeds": [1], "command": command, "measures": MEASURES, "raw": raw}
    write_record(
        RECORDS / "load.json",
        claim=f"of {len(seen.acknowledged):,} acknowledged answers of 20 people, with two kill -9 of the app in their "
        "midst: lost, doubled, or not the same in database and export",
        value=sum(bad.values()),
        unit="answers",
        interval=None,
        goal="0",
        holds=not any(bad.values()),
        **common,
    )
    slowest = max(("open page", "open submit"), key=lambda what: np.percentile(seen.times_of(what), 95))
    times = seen.times_of(slowest)
    value = float(np.percentile(times, 95))
    luck = np.random.default_rng(0)
    drawn = [np.percentile(luck.choice(times, len(times)), 95) for _ in range(1000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    write_record(
        RECORDS / "load_p95.json",
        claim=f"95th percentile of the slower of page and submit ({slowest.split()[1]}), 20 people at once",
        value=value,
        unit="ms",
        interval=(min(float(low), value), max(float(high), value)),
        goal=f"< {GOAL:g}",
        holds=value < GOAL,
        bound=None if value < GOAL else _bound(raw),
        **common,
    )


def _cpu() -> tuple[float, float]:
    """Seconds that this process and those it started and that ended have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own, children = (one.ru_utime + one.ru_stime for one in used)
    return own, children


def _bound(raw: dict[str, Any]) -> str:
    busy = raw["cpu seconds"]
    return (
        f"the two cores, for which {raw['others at work']} processes ran (load average of five minutes): the app "
        f"itself used {busy['app']} s of CPU, its starts among them, and the people {busy['people']} s, in "
        f"{busy['of']} s of two cores; a page took {raw['milliseconds']['open page']['p50']} ms in the median"
    )
