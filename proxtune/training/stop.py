"""SIGTERM and Ctrl-C end a run where nothing is half done.

The first signal raises `Stopped`: at once, or in a `held` block at its end or in the next `interruptible` window.
The second one kills the process on the spot.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):  # like KeyboardInterrupt no Exception: `except Exception` must not swallow it
    """The process was asked to end by the signal `number`; its exit code is to be 128 + that.

    A note (`add_note`) says what was saved; without one there was nothing to save.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass
class _State:
    noted: Stopped | None = None  # the signal that came
    held: bool = False  # whether it waits
    process: int = 0  # who listens


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """Answer the signals until the block ends, all but those that the process ignores.

    Only the main thread can. Elsewhere, and inside another such block, this changes nothing.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if _note in before.values() or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.noted, _state.process = None, os.getpid()
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.noted = None


@contextmanager
def held() -> Iterator[None]:
    """A signal waits while the block runs, and raises when it ends."""
    before, _state.held = _state.held, True
    try:
        yield
    finally:
        _state.held = before
    if not before:
        check()


@contextmanager
def interruptible() -> Iterator[None]:
    """A window in a `held` block: a signal raises `Stopped` at once, and one that is waiting raises at its beginning.

    For waiting and computing that has changed nothing yet: sampling, a call of the reward, an evaluation. Not around
    what must be undone by a `finally`, such as an adapter that is switched off: a signal may land in the undoing.
    """
    before = _state.held
    try:
        _state.held = False
        check()
        yield
    finally:
        _state.held = before


def check() -> None:
    """Raise the signal that waits, if there is one."""
    if _state.noted is not None:
        raise _state.noted


def _note(number: int, _: FrameType | None) -> None:
    for each in SIGNALS:
        if signal.getsignal(each) is _note:
            signal.signal(each, signal.SIG_DFL)  # the next one kills, even in the middle of a long operation of torch
    if os.getpid() != _state.process:  # a forked worker, which has nothing to finish
        os.kill(os.getpid(), number)
    _state.noted = Stopped(number)
    if not _state.held:
        raise _state.noted
    os.write(2, b"\nstopping after this step; a second signal stops at once, without a checkpoint\n")
