"""TR-2: a signal raises at once where nothing is half done, waits elsewhere, and the second one kills."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from proxtune.training.stop import Stopped, check, held, interruptible, listening
from tests.forked import exit_code, fork

each_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def stop_of(body: Callable[[list[str]], None]) -> tuple[Stopped, list[str]]:
    """How a body ended that signals end while somebody listens, and what it had done by then."""
    done: list[str] = []
    with pytest.raises(Stopped) as caught, listening():
        body(done)
    return caught.value, done


@each_signal
def test_tr2_outside_of_held_blocks_a_signal_raises_at_once(number: int) -> None:
    def body(done: list[str]) -> None:
        send(number)
        done.append("after")

    stopped, done = stop_of(body)
    assert (stopped.number, done) == (number, [])


@each_signal
def test_tr2_a_held_block_ends_before_the_signal_raises(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    def body(done: list[str]) -> None:
        with held():
            send(number)
            done.append("block")
        done.append("after")

    assert stop_of(body)[1] == ["block"]
    assert "stopping after this step" in capfd.readouterr().err


@pytest.mark.parametrize("early", [True, False])
def test_tr2_in_a_window_a_signal_raises_at_once_and_an_earlier_one_at_its_beginning(early: bool) -> None:
    def body(done: list[str]) -> None:
        with held():
            if early:
                send()
            done.append("block")
            with interruptible():
                done.append("window")
                send()
                done.append("after")

    assert stop_of(body)[1] == ["block"] + ["window"] * (not early)


def test_tr2_a_window_ends_where_it_ends_and_windows_nest() -> None:
    def body(done: list[str]) -> None:
        with held():
            with interruptible(), interruptible():
                pass
            with interruptible(), held():
                pass
            send()
            done.append("block")

    assert stop_of(body)[1] == ["block"]


def test_an_error_goes_through_a_held_block_as_it_is() -> None:
    def body() -> None:
        send()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), listening(), held():
        body()


def test_when_nobody_listens_blocks_and_windows_change_nothing() -> None:
    with pytest.raises(KeyboardInterrupt), held(), interruptible():
        send(signal.SIGINT)


def test_afterwards_the_signals_are_what_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with listening(), listening():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    with pytest.raises(Stopped), listening():
        send()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    check()


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    """`nohup` and a shell's background jobs ignore signals on purpose."""

    def life() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with listening():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    assert exit_code(fork(life)) == 0


def test_in_another_thread_listening_changes_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def forked_and_ready(life: Callable[[], None]) -> int:
    read, write = os.pipe()

    def body() -> None:
        os.write(write, b"x")
        life()

    pid = fork(body)
    os.read(read, 1)
    return pid


def test_tr2_the_second_signal_kills_within_a_second() -> None:
    def life() -> None:
        with listening(), held():
            send()
            time.sleep(60)

    pid = forked_and_ready(life)
    time.sleep(0.1)
    os.kill(pid, signal.SIGTERM)
    sent = time.monotonic()
    assert exit_code(pid) == -signal.SIGTERM
    assert time.monotonic() - sent < 1


def test_a_forked_worker_is_ended_by_the_first() -> None:
    with listening(), held():
        pid = forked_and_ready(lambda: time.sleep(60))
        os.kill(pid, signal.SIGTERM)
        assert exit_code(pid) == -signal.SIGTERM
