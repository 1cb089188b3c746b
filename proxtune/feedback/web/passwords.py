"""Passwords: how they are kept, and how often one may be tried."""

import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Lock, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

HASHES = 2  # at once: each takes most of a core
WAITING = 50  # others whose hash is not yet begun; more are sent away
KIBIBYTES, PASSES, LANES = 19 * 1024, 2, 1  # OWASP's least for Argon2id
LEAST, MOST = 10, 1000  # characters of a password
WINDOW = 60.0  # seconds
TRIES = 5  # of one name from one address within the window
ADDRESS_TRIES = 30  # of all names from one address: people behind one router log in at nine, too
REMEMBERED = 10_000  # names and addresses


class Passwords:
    """Argon2 hashes, a few at a time, in threads of their own: logins wait for each other, nobody else for them."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=KIBIBYTES, parallelism=LANES)
        self._places = CapacityLimiter(HASHES)
        self._turns: WeakValueDictionary[str, Lock] = WeakValueDictionary()  # of an address, while it is tried
        self._nobody: str | None = None

    @property
    def busy(self) -> bool:
        """Whether so many wait that another would wait too long."""
        return self._places.statistics().tasks_waiting >= WAITING

    async def hash(self, password: str) -> str:
        return await to_thread.run_sync(self._hasher.hash, password, limiter=self._places)

    async def verify(self, hashed: str | None, password: str, address: str) -> bool:
        """Whether a password is the one. Takes as long where there is none, so that nobody learns who has one.

        From one address one at a time: whoever guesses waits for their own guesses, and others for one of them.
        """
        turn = self._turns.setdefault(address, Lock())
        async with turn:
            return await to_thread.run_sync(self._verify, hashed, password, limiter=self._places)

    def _verify(self, hashed: str | None, password: str) -> bool:
        if hashed is None:
            self._nobody = self._nobody or self._hasher.hash(secrets.token_hex())
        try:
            self._hasher.verify(hashed or self._nobody or "", password)
        except (VerificationError, InvalidHashError):
            return False
        return hashed is not None


class Throttle:
    """Counts tries within the last minute. `now` gives the time in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._tries: dict[Hashable, deque[float]] = defaultdict(deque)

    def wait(self, name: str, address: str) -> float:
        """Seconds until a name may be tried from an address; 0: it may, and this try is counted."""
        now = self._now()
        if len(self._tries) > REMEMBERED:
            self._forget(now)
        waits = [self._wait((name, address), TRIES, now), self._wait(address, ADDRESS_TRIES, now)]
        if max(waits) == 0.0:
            for key in ((name, address), address):
                self._tries[key].append(now)
        return max(waits)

    def _wait(self, key: Hashable, most: int, now: float) -> float:
        tries = self._tries[key]
        while tries and tries[0] <= now - WINDOW:
            tries.popleft()
        return tries[0] + WINDOW - now if len(tries) >= most else 0.0

    def _forget(self, now: float) -> None:
        for key in [key for key, tries in self._tries.items() if not tries or tries[-1] <= now - WINDOW]:
            del self._tries[key]
