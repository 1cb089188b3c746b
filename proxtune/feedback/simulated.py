"""Simulated people, who answer through the app's real HTTP API: for rehearsals, load and measurements.

A person has a taste, a number u for each answer to a prompt, and a temperament, which says how the taste becomes what
they say. With temperature T, each draw their own:

| kind    | what is said                                                                                      |
|---------|---------------------------------------------------------------------------------------------------|
| pair    | P(a over b) = σ((u_a − u_b) / T) (Bradley and Terry 1952); a tie only where T = 0 and u_a = u_b    |
| ranking | the order of u + T·g, g from Gumbel's distribution (Plackett and Luce): of two answers, as a pair   |
| rating  | of each criterion: middle + (u − centre + N(0, T²)) / step, rounded to a whole number of the scale  |
| thumb   | P(up) = σ((u − centre) / T)                                                                       |

Other kinds ask for what a taste does not know, and are left to others (a skip).
"""

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from random import Random
from threading import Event
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import httpx2

from proxtune.errors import StoreError
from proxtune.runs import derive_seed

PATIENCE = 60.0  # seconds that somebody tries to reach the app
POLL = 0.5  # seconds between two looks for something to judge
TIMEOUT = 30.0  # seconds that an answer of the app may take
Taste: TypeAlias = Callable[[str, str], float]  # (prompt, answer) -> how good it is, in units of the caller's


class Asked(NamedTuple):
    """An item as it is shown: its candidates by the places they stand in."""

    kind: str
    prompt: str
    candidates: Sequence[str]
    scale: int = 5
    criteria: Sequence[str] = ("overall",)


class Said(NamedTuple):
    """An answer, and whether the person read what they judged."""

    body: dict[str, Any]
    read: bool = True


class Person(Protocol):
    """Somebody who judges. All that is left to chance comes from `luck`."""

    def answer(self, asked: Asked, luck: Random) -> Said: ...


@dataclass(frozen=True)
class Noisy:
    """Says what they like, the less surely the less two answers differ.

    Args:
        temperature: T, in units of the taste; 0: always the better one.
        centre: the taste of an answer that gets the middle rating, and a thumb up every other time.
        step: how much more taste earns the next rating.
    """

    taste: Taste
    temperature: float = 0.0
    centre: float = 0.0
    step: float = 0.5

    def answer(self, asked: Asked, luck: Random) -> Said:
        return Said(self._said(asked, self.values(asked), luck))

    def values(self, asked: Asked) -> list[float]:
        """What each candidate is worth to the person: u."""
        return [self.taste(asked.prompt, text) for text in asked.candidates]

    def _said(self, asked: Asked, values: Sequence[float], luck: Random) -> dict[str, Any]:
        match asked.kind:
            case "pair":
                first, second = self._heard(values, luck)
                return {"kind": "pair", "preference": (first > second) - (first < second)}
            case "ranking":
                heard = self._heard(values, luck)
                return {"kind": "ranking", "ranks": [1 + sum(other > one for other in heard) for one in heard]}
            case "rating":
                scores = {criterion: self._rating(asked, values[0], luck) for criterion in asked.criteria}
                return {"kind": "rating", "scores": scores}
            case "thumb":
                up, down = self._heard((values[0], self.centre), luck)
                return {"kind": "thumb", "up": up > down}
        return {"kind": "skip"}

    def _heard(self, values: Sequence[float], luck: Random) -> list[float]:
        """What is felt at the moment, u + T·g: one is above another with the probability σ(difference / T)."""
        return [value - self.temperature * math.log(luck.expovariate(1.0)) for value in values]

    def _rating(self, asked: Asked, value: float, luck: Random) -> int:
        points = (value - self.centre + luck.gauss(0.0, self.temperature)) / self.step
        return round(min(max((1 + asked.scale) / 2 + points, 1), asked.scale))


@dataclass(frozen=True)
class Biased(Noisy):
    """Likes what stands first, and what is longer, more than its taste says.

    Args:
        first: added to u of the answer that is shown first.
        longer: added to u of the longest answer, unless all are equally long.
    """

    first: float = 0.0
    longer: float = 0.0

    def values(self, asked: Asked) -> list[float]:
        lengths = [len(text) for text in asked.candidates]
        longest = max(lengths, default=0)
        unequal = min(lengths, default=0) < longest
        return [
            value + self.first * (place == 0) + self.longer * (unequal and length == longest)
            for place, (value, length) in enumerate(zip(super().values(asked), lengths, strict=True))
        ]


@dataclass(frozen=True)
class Lazy(Noisy):
    """Answers a share of the items without reading: the first is better, the middle rating, a thumb up; at once."""

    share: float = 0.5

    def answer(self, asked: Asked, luck: Random) -> Said:
        if luck.random() >= self.share:
            return super().answer(asked, luck)
        blind: dict[str, dict[str, Any]] = {
            "pair": {"preference": 1},
            "ranking": {"ranks": list(range(1, len(asked.candidates) + 1))},
            "rating": {"scores": dict.fromkeys(asked.criteria, (1 + asked.scale) // 2)},
            "thumb": {"up": True},
        }
        return Said({"kind": asked.kind, **blind[asked.kind]} if asked.kind in blind else {"kind": "skip"}, read=False)


@dataclass(frozen=True)
class Adversarial(Noisy):
    """Judges a share of the items by the opposite of its taste, mirrored at `centre`."""

    share: float = 1.0

    def answer(self, asked: Asked, luck: Random) -> Said:
        values = self.values(asked)
        if luck.random() < self.share:
            values = [2 * self.centre - value for value in values]
        return Said(self._said(asked, values, luck))


class Recorded(NamedTuple):
    """An answer that the app said is on disk."""

    person: str
    item: int
    revision: int
    request: str


class Browser:
    """One person's session with the app. What breaks on the way is sent again, an answer under the same name."""

    def __init__(self, url: str, name: str, *, patience: float = PATIENCE) -> None:
        self.name, self.patience = name, patience
        self.client = httpx2.Client(
            base_url=url, timeout=TIMEOUT, trust_env=False, headers={"Accept": "application/json"}
        )

    def join(self, invitation: str, password: str) -> None:
        """Use an invitation, and be logged in."""
        self._begin(f"/join/{invitation}", password)

    def login(self, password: str) -> None:
        """Log in. Raises StoreError: the app refuses."""
        self._begin("/login", password)

    def next(self) -> dict[str, Any] | None:
        """What to judge next; None: nothing is left."""
        answer = self.send("GET", "/api/next")
        return None if answer.status_code == 204 else dict(answer.json())

    def submit(self, item: int, body: Mapping[str, Any], revision: int) -> Recorded | None:
        """Answer an item; None: it was answered or taken back elsewhere meanwhile."""
        request = secrets.token_hex(16)
        given = {"body": body, "revision": revision, "request": request}
        answer = self.send("POST", f"/api/items/{item}/judgement", json=given)
        if answer.status_code == 409:
            return None
        return Recorded(self.name, item, answer.json()["revision"], request)

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """An answer of the app: success, or 409. Raises StoreError: another refusal, or nothing for `patience`."""
        deadline, pause = time.monotonic() + self.patience, 0.1
        while True:
            failed, told = "", 0.0
            try:
                answer = self.client.request(method, path, **content)
            except httpx2.TransportError as error:
                failed = f"{type(error).__name__} {error}".strip()
            else:
                if answer.is_success or answer.status_code == 409:
                    return answer
                failed = f"HTTP {answer.status_code}: {answer.text[:200]}"
                if answer.status_code not in {429, 503}:
                    raise StoreError(f"{self.name}: {method} {path} is refused ({failed})")
                told = float(answer.headers.get("retry-after", "0"))
            pause = min(max(2 * pause, told), 5.0 + told)
            if time.monotonic() + pause > deadline:
                raise StoreError(f"{self.name}: {self.client.base_url} does not answer ({failed}); is the app running?")
            time.sleep(pause)

    def _begin(self, path: str, password: str) -> None:
        answer = self.send("POST", path, data={"name": self.name, "password": password})
        self.client.headers["X-CSRF-Token"] = answer.json()["csrf"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


def answer_all(
    url: str,
    name: str,
    password: str,
    person: Person,
    *,
    seed: int = 1,
    until: Callable[[], bool] = lambda: False,
    stay: bool = False,
    pause: float = 0.0,
    told: Callable[[Recorded], object] = lambda _: None,
) -> int:
    """Log in and answer all there is to answer; returns how many answers were recorded, skips among them.

    Args:
        seed: with the name and the item's number it decides all that is left to chance.
        until: end once it is true, whatever is left.
        stay: wait for more where nothing is left, until `until`.
        pause: seconds that reading takes; who does not read answers at once.
        told: told of each answer that is recorded.

    Raises StoreError: the app refuses, or does not answer for `PATIENCE` seconds.
    """
    count = 0
    with Browser(url, name) as browser:
        browser.login(password)
        while not until():
            shown = browser.next()
            if shown is None and not stay:
                break
            if shown is None:
                time.sleep(POLL)
                continue
            body, read = person.answer(_asked(shown), Random(derive_seed(seed, f"judges {name}", shown["id"])))  # noqa: S311 (no secret)
            time.sleep(pause * read)
            recorded = browser.submit(shown["id"], body, shown["revision"])
            if recorded is not None:
                count += 1
                told(recorded)
    return count


@dataclass
class Crowd:
    """Several simulated people, each in a thread of their own."""

    url: str
    people: Mapping[str, Person]
    passwords: dict[str, str] = field(default_factory=dict)

    def join(self, invite: Callable[[], str]) -> None:
        """Make them known to the app, with random passwords; `invite` gives an invitation of an annotator."""
        for name in self.people:
            self.passwords[name] = secrets.token_urlsafe(16)
            with Browser(self.url, name) as browser:
                browser.join(invite(), self.passwords[name])

    def answer_all(self, *, until: Callable[[], bool] = lambda: False, **how: Any) -> dict[str, int]:
        """`answer_all` of everybody at once; returns how much each said. One who fails ends all."""
        over = Event()

        def ended() -> bool:
            return over.is_set() or until()

        with ThreadPoolExecutor(len(self.people)) as pool:
            said = {
                name: pool.submit(answer_all, self.url, name, self.passwords[name], person, until=ended, **how)
                for name, person in self.people.items()
            }
            try:
                finished, _ = wait(said.values(), return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
            finally:
                over.set()
        return {name: future.result() for name, future in said.items()}


def _asked(shown: Mapping[str, Any]) -> Asked:
    prompt, options = shown["prompt"], shown["options"]
    text = prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt)
    return Asked(shown["kind"], text, shown["candidates"], options["scale"], options["criteria"])
