"""The contract of the store, on SQLite and on PostgreSQL."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from proxtune.errors import ConflictError, DataError, StoreBusyError, StoreError, StoreFullError
from proxtune.feedback.records import Candidate, Item
from proxtune.feedback.store import Store
from proxtune.feedback.store.database import refuse_network
from proxtune.feedback.store.people import ABSOLUTE, IDLE, INVITED
from proxtune.feedback.store.queue import GOLD_EVERY, LEASE
from tests.feedback.conftest import KINDS, Clock, pair

on_both = pytest.mark.parametrize("address", KINDS, indirect=True)
REQUESTS = itertools.count()
FIRST = {"kind": "pair", "preference": 1}


def request() -> str:
    return f"request-{next(REQUESTS)}"


def people(store: Store, count: int) -> list[int]:
    return [store.people.add(f"person {i}", "annotator").id for i in range(count)]


def answer(store: Store, person: int, body: dict[str, object] = FIRST) -> int | None:
    """Judge what comes next."""
    lease = store.queue.next(person)
    if lease is None:
        return None
    store.judgements.submit(person, lease.id, body, revision=lease.revision, request=request())
    return lease.id


@on_both
def test_each_item_is_judged_by_as_many_people_as_are_asked(store: Store) -> None:
    numbers = store.queue.add([pair(i, overlap=2) for i in range(6)])
    judges = people(store, 3)
    while any([answer(store, person) for person in judges]):  # noqa: C419 (each in turn)
        pass
    judged = {one.id: [j.person for j in one.judgements] for one in store.judgements.all()}
    assert set(judged) == set(numbers)
    assert all(len(set(who)) == len(who) == 2 for who in judged.values())


@on_both
def test_the_last_open_place_is_shown_to_one_person_until_the_lease_ends(store: Store, clock: Clock) -> None:
    (number,) = store.queue.add([pair(0)])
    one, other = people(store, 2)
    lease = store.queue.next(one)
    assert lease is not None
    assert lease.id == number
    assert store.queue.next(other) is None
    again = store.queue.next(one)
    assert again is not None
    assert (again.id, again.order) == (lease.id, lease.order)
    clock.time += LEASE + 1
    taken = store.queue.next(other)
    assert taken is not None
    assert taken.id == number
    # whoever was slow has not worked in vain: both answers count
    for person in (one, other):
        store.judgements.submit(person, number, FIRST, revision=1, request=request())
    assert len(next(store.judgements.all()).judgements) == 2


@on_both
def test_what_was_written_is_there_after_the_lease_ended(store: Store, clock: Clock) -> None:
    store.queue.add([pair(0)])
    (one,) = people(store, 1)
    lease = store.queue.next(one)
    assert lease is not None
    store.queue.draft(lease.id, one, {"comment": "half a thou"})
    clock.time += 10 * LEASE
    later = store.queue.next(one)
    assert later is not None
    assert later.draft == {"comment": "half a thou"}


@on_both
def test_the_highest_priority_is_asked_first_and_can_be_changed(store: Store) -> None:
    low, high = store.queue.add([pair(0, priority=0.1), pair(1, priority=0.9)])
    one, other = people(store, 2)
    first = store.queue.next(one)
    assert first is not None
    assert first.id == high
    store.queue.reorder({low: 5.0})
    second = store.queue.next(other)
    assert second is not None
    assert second.id == low


@pytest.mark.slow
@on_both
def test_places_are_shuffled_for_each_person_and_kept(store: Store) -> None:
    store.queue.add([pair(i, overlap=5) for i in range(40)])
    orders: Counter[tuple[int, ...]] = Counter()
    for person in people(store, 5):
        while (lease := store.queue.next(person)) is not None:
            orders[lease.order] += 1
            said = store.judgements.submit(person, lease.id, FIRST, revision=1, request=request())
            assert said.order == lease.order
    assert set(orders) == {(0, 1), (1, 0)}
    assert 60 <= orders[0, 1] <= 140  # 200 fair coins: false alarm < 1e-8


@on_both
def test_what_is_said_of_places_is_kept_of_candidates(store: Store) -> None:
    answers = tuple(Candidate(text=f"answer {i}") for i in range(4))
    store.queue.add([pair(i) for i in range(20)])
    store.queue.add([Item(kind="ranking", prompt="p", candidates=answers, batch=f"b{i}") for i in range(20)])
    (one,) = people(store, 1)
    while (lease := store.queue.next(one)) is not None:
        shown = [lease.item.candidates[i].text for i in lease.order]
        if lease.item.kind == "pair":  # whoever likes "first" better says so wherever it stands
            body: dict[str, object] = {"kind": "pair", "preference": 2 if shown[0].startswith("first") else -2}
            said = store.judgements.submit(one, lease.id, body, revision=1, request=request())
            assert said.body.preference == 2
        else:
            body = {"kind": "ranking", "ranks": [int(text[-1]) + 1 for text in shown]}
            said = store.judgements.submit(one, lease.id, body, revision=1, request=request())
            assert said.body.ranks == (1, 2, 3, 4)
        store.judgements.withdraw(one, lease.id, revision=2, request=request())
        again = store.queue.next(one)
        assert again.draft.items() >= body.items()
        store.judgements.submit(one, lease.id, again.draft, revision=3, request=request())


@on_both
def test_fs3_a_request_sent_again_is_the_same_judgement(store: Store) -> None:
    numbers = store.queue.add([pair(i) for i in range(50)])
    (one,) = people(store, 1)
    for _ in numbers:
        lease = store.queue.next(one)
        assert lease is not None
        name = request()

        def send(item: int = lease.id, name: str = name) -> None:
            store.judgements.submit(one, item, FIRST, revision=1, request=name)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(store.judgements.events())) == len(numbers)


@on_both
def test_fs4_of_two_changes_of_one_answer_the_later_is_refused_and_sees_what_stands(store: Store) -> None:
    store.queue.add([pair(0)])
    (one,) = people(store, 1)
    number = answer(store, one)
    assert number is not None
    store.judgements.submit(one, number, {"kind": "pair", "preference": -2}, revision=2, request=request())
    with pytest.raises(ConflictError, match="revision 2") as caught:
        store.judgements.submit(one, number, {"kind": "pair", "preference": 0}, revision=2, request=request())
    assert abs(caught.value.current.body.preference) == 2
    history = store.judgements.history(number, one)
    assert [(j.revision, abs(j.body.preference)) for j in history] == [(1, 1), (2, 2)]


@on_both
def test_an_answer_taken_back_is_a_draft_again_and_its_history_stays(store: Store) -> None:
    store.queue.add([pair(0), pair(1)])
    (one,) = people(store, 1)
    number = answer(store, one)
    assert number is not None
    store.judgements.withdraw(one, number, revision=2, request=request())
    assert list(store.judgements.all()) == []
    lease = store.queue.next(one)
    assert lease is not None
    assert (lease.id, lease.revision) == (number, 3)
    assert lease.draft == {**FIRST, "both_bad": False, "comment": "", "flags": []}
    store.judgements.submit(one, number, {"kind": "pair", "preference": 2}, revision=3, request=request())
    assert [j.body is None for j in store.judgements.history(number, one)] == [False, True, False]
    with pytest.raises(ConflictError, match="not shown"):
        store.judgements.withdraw(one, number + 1, revision=1, request=request())


@on_both
def test_nobody_answers_what_they_were_not_shown(store: Store) -> None:
    (number,) = store.queue.add([pair(0)])
    one, _ = people(store, 2)
    with pytest.raises(ConflictError, match="not shown"):
        store.judgements.submit(one, number, FIRST, revision=1, request=request())
    with pytest.raises(ConflictError, match="not shown"):
        store.judgements.submit(one, 999, FIRST, revision=1, request=request())
    with pytest.raises(ConflictError, match="not yours"):
        store.queue.draft(number, one, {})


@on_both
def test_a_skipped_item_goes_to_others(store: Store) -> None:
    store.queue.add([pair(0)])
    one, other = people(store, 2)
    number = answer(store, one, {"kind": "skip"})
    assert store.queue.next(one) is None
    assert answer(store, other) == number
    assert [j.person for j in next(store.judgements.all()).judgements] == [other]


@on_both
def test_an_answer_of_another_kind_is_refused_and_nothing_is_written(store: Store) -> None:
    store.queue.add([pair(0)])
    (one,) = people(store, 1)
    lease = store.queue.next(one)
    assert lease is not None
    for wrong in ({"kind": "thumb", "up": True}, {"kind": "pair", "preference": 3}, {"kind": "pair"}, {}):
        with pytest.raises(DataError):
            store.judgements.submit(one, lease.id, wrong, revision=1, request=request())
    assert list(store.judgements.events()) == []


@on_both
def test_a_final_decision_stands_alone_and_closes_the_item(store: Store) -> None:
    (number,) = store.queue.add([pair(0, overlap=3)])
    one, other, third = people(store, 3)
    answer(store, one)
    answer(store, other, {"kind": "pair", "preference": -1})
    reviewer = store.people.add("reviewer", "reviewer").id
    store.judgements.submit(
        reviewer, number, {"kind": "pair", "preference": -2}, revision=1, request=request(), final=True
    )
    (judged,) = store.judgements.all()
    assert [(j.person, j.body.preference) for j in judged.judgements] == [(reviewer, -2)]
    assert store.queue.next(third) is None
    assert store.queue.ask(judged.item.batch, 5) == 1
    assert store.queue.next(third) is None, "more people are asked, but not about what is decided"


@on_both
def test_a_decision_that_is_changed_or_taken_back_stays_the_reviewers(store: Store) -> None:
    (number,) = store.queue.add([pair(0, overlap=2)])
    for person in people(store, 2):
        answer(store, person)
    reviewer = store.people.add("reviewer", "reviewer").id
    decide = {"kind": "pair", "preference": -2}
    with pytest.raises(DataError, match=f"a decision on item {number} cannot be a skip"):
        store.judgements.submit(reviewer, number, {"kind": "skip"}, revision=1, request=request(), final=True)
    store.judgements.submit(reviewer, number, decide, revision=1, request=request(), final=True)
    store.judgements.withdraw(reviewer, number, revision=2, request=request())
    (judged,) = store.judgements.all()
    assert len(judged.judgements) == 2
    changed = {"kind": "pair", "preference": 2}
    store.judgements.submit(reviewer, number, changed, revision=3, request=request())
    (judged,) = store.judgements.all()
    assert [(j.person, j.final) for j in judged.judgements] == [(reviewer, True)]


@on_both
def test_what_is_closed_stays_closed_when_a_late_answer_comes_and_can_be_asked_again(store: Store) -> None:
    numbers = store.queue.add([pair(0, overlap=2)])
    one, other, third = people(store, 3)
    assert store.queue.next(one) is not None
    store.queue.close(numbers)
    assert answer(store, one) == numbers[0], "who was shown it may answer"
    assert store.queue.next(other) is None
    store.queue.reopen(numbers, 2)
    assert answer(store, other) == numbers[0]
    assert store.queue.next(third) is None


@pytest.mark.slow
@on_both
def test_gold_is_mixed_in_for_everybody_and_repeats_come_after_their_item(store: Store) -> None:
    gold = store.queue.add([pair(100, gold=FIRST)])
    plain = store.queue.add([pair(i, overlap=2) for i in range(GOLD_EVERY * 2)], repeat=0.5)
    for person in people(store, 2):
        seen = []
        while (number := answer(store, person)) is not None:
            seen.append(number)
        assert seen.count(gold[0]) == 1
        repeats = {one.id: one.repeats for one in store.judgements.all() if one.repeats is not None}
        assert 5 <= len(repeats) <= len(plain) - 5
        assert all(seen.index(first) < seen.index(again) - 5 for again, first in repeats.items())


@on_both
def test_what_is_imported_twice_is_asked_once(store: Store) -> None:
    first = store.queue.add([pair(i) for i in range(5)], repeat=0.5)
    assert store.queue.add([pair(i) for i in range(5)], repeat=0.5) == first
    other_batch = store.queue.add([pair(0, batch="second")])
    assert other_batch[0] not in first
    assert store.queue.batches()["second"].items == 1


@on_both
def test_the_overlap_can_be_raised_later(store: Store) -> None:
    store.queue.add([pair(0)])
    one, other = people(store, 2)
    answer(store, one)
    assert store.queue.next(other) is None
    assert store.queue.ask("imported", 2) == 1
    assert answer(store, other) is not None


@on_both
def test_wa11_sessions_end_by_time_by_logging_out_and_with_the_person(store: Store, clock: Clock) -> None:
    boss = store.people.add("boss", "admin").id
    one = store.people.add("one", "annotator").id

    def begin() -> str:
        return store.people.begin_session(one)

    token = begin()
    assert store.people.session(token).name == "one"
    assert store.people.session(token + "x") is None
    store.people.end_session(token)
    assert store.people.session(token) is None
    idle = begin()
    clock.time += IDLE + 1
    assert store.people.session(idle) is None
    busy, began = begin(), clock.time
    while clock.time - began < ABSOLUTE:
        assert store.people.session(busy) is not None
        clock.time += IDLE / 2
    assert store.people.session(busy) is None
    locked_out = begin()
    store.people.change(one, active=False)
    assert store.people.session(locked_out) is None
    with pytest.raises(StoreError, match="nobody would be left"):
        store.people.change(boss, role="annotator")


@on_both
def test_an_invitation_is_good_once_and_for_a_time(store: Store, clock: Clock) -> None:
    token = store.people.invite("reviewer")
    assert store.people.invited(token) == "reviewer"
    assert store.people.join(token, "anna", "hash").role == "reviewer"
    with pytest.raises(StoreError, match="used or is too old"):
        store.people.join(token, "berta", "hash")
    old = store.people.invite("annotator")
    clock.time += INVITED + 1
    assert store.people.invited(old) is None
    with pytest.raises(StoreError, match="taken"):
        store.people.join(store.people.invite("annotator"), "anna", "hash")


@on_both
def test_an_erased_person_has_no_name_and_their_judgements_stay(store: Store) -> None:
    store.queue.add([pair(0)])
    (one,) = people(store, 1)
    answer(store, one)
    store.people.erase(one)
    (gone,) = store.people.all()
    assert gone.name.startswith(f"person-{one}-")
    assert store.people.by_name("person 0") is None
    assert len(next(store.judgements.all()).judgements) == 1


@on_both
def test_guidelines_have_versions_and_an_answer_knows_its_own(store: Store) -> None:
    store.queue.add([pair(0), pair(1)])
    (one,) = people(store, 1)
    assert store.write_guidelines("Be fair.") == 1
    answer(store, one)
    assert store.write_guidelines("Be fair.") == 1
    assert store.write_guidelines("Be fair and quick.") == 2
    answer(store, one)
    assert [j.guideline for j in store.judgements.events()] == [1, 2]
    assert store.guidelines(1) == (1, "Be fair.")


@pytest.mark.slow
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_fs6_a_store_moves_to_postgresql_and_back_with_every_row(store: Store, tmp_path: Path, clock: Clock) -> None:
    with Store.create(tmp_path / "small.db", now=clock) as small:
        small.queue.add([pair(i, overlap=2) for i in range(20)], repeat=0.3)
        for person in people(small, 3):
            for _ in range(7):
                answer(small, person)
        small.write_guidelines("Be fair.")
        counts = small.copy_to(store)
        assert counts["judgements"] == 21
        with Store.create(tmp_path / "back.db", now=clock) as back:
            assert store.copy_to(back) == counts
            assert list(back.judgements.all()) == list(store.judgements.all()) == list(small.judgements.all())
            assert list(back.judgements.events()) == list(small.judgements.events())
        with pytest.raises(StoreError, match="holds rows already"):
            small.copy_to(store)
    assert answer(store, 1) is not None  # its numbers go on where they ended
    assert store.people.add("new", "annotator").id == 4


def test_fs8_a_backup_holds_what_was_acknowledged_and_is_sound(store: Store, tmp_path: Path) -> None:
    store.queue.add([pair(i) for i in range(200)])
    stop = threading.Event()
    acknowledged: list[int] = []

    def work(person: int) -> None:
        while not stop.is_set() and (number := answer(store, person)) is not None:
            acknowledged.append(number)

    threads = [threading.Thread(target=work, args=(person,)) for person in people(store, 4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    before = list(acknowledged)
    store.db.backup(tmp_path / "backup.db")
    stop.set()
    for thread in threads:
        thread.join()
    assert before
    with sqlite3.connect(tmp_path / "backup.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with Store.open(tmp_path / "backup.db") as copied:
        assert set(before) <= {judgement.item for judgement in copied.judgements.events()}


WRITER = """
    import sys
    from proxtune.feedback.store import Store

    store, person = Store.open(sys.argv[1]), int(sys.argv[2])
    while (lease := store.queue.next(person)) is not None:
        name = f"{person}-{lease.id}-{lease.revision}"
        said = {"kind": "pair", "preference": 1}
        store.judgements.submit(person, lease.id, said, revision=lease.revision, request=name)
        print(lease.id, flush=True)  # acknowledged
"""


def kill_drill(store: Store, address: str, kills: int, seconds: float) -> int:
    """Two processes write and are killed, again and again; returns how many judgements were acknowledged."""
    judges = people(store, 2)
    acknowledged: list[tuple[int, int]] = []
    for _ in range(kills):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), address]
        writers = [
            subprocess.Popen([*command, str(person)], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE)
            for person in judges
        ]
        firsts = [writer.stdout.readline() for writer in writers]  # both are at work
        time.sleep(seconds)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for person, writer, first in zip(judges, writers, firsts, strict=True):
            said, trouble = writer.communicate()
            assert "Error" not in trouble, trouble
            acknowledged += [(int(line), person) for line in [first, *said.splitlines()]]
    stored = Counter((judgement.item, judgement.person) for judgement in store.judgements.events())
    assert set(acknowledged) <= set(stored), "an acknowledged judgement is lost"
    assert set(stored.values()) <= {1}, "a judgement is there twice"
    with sqlite3.connect(address) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return len(acknowledged)


@pytest.mark.slow
def test_fs1_no_acknowledged_judgement_is_lost_by_a_kill(address: str) -> None:
    with Store.create(address) as store:
        store.queue.add([pair(i, overlap=2) for i in range(5000)])
        assert kill_drill(store, address, kills=3, seconds=1.0) > 10


@pytest.mark.nightly
def test_fs1_forty_kills(address: str) -> None:
    with Store.create(address) as store:
        store.queue.add([pair(i, overlap=2) for i in range(60_000)])
        assert kill_drill(store, address, kills=40, seconds=10.0) > 5_000


def test_fs2_a_writer_that_waits_too_long_says_so_and_writes_nothing(
    store: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxtune.feedback.store.database.WAIT", 0.05)
    store.queue.add([pair(0)])
    (one,) = people(store, 1)
    holder = threading.Thread(target=_hold, args=(store, 0.5))
    holder.start()
    time.sleep(0.1)
    with pytest.raises(StoreBusyError, match="try again"):
        store.queue.next(one)
    holder.join()
    assert store.queue.next(one) is not None


def _hold(store: Store, seconds: float) -> None:
    with store.db.write():
        time.sleep(seconds)


def test_fs7_a_store_that_cannot_be_written_says_so_and_keeps_what_it_had(store: Store) -> None:
    store.queue.add([pair(0)])
    (one,) = people(store, 1)
    lease = store.queue.next(one)
    assert lease is not None
    with store.db.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    with store.db.engine.connect() as connection:  # as a full disk does, from the library itself
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    body = {**FIRST, "comment": "x" * 90_000}
    with pytest.raises(StoreFullError, match="make room"):
        store.judgements.submit(one, lease.id, body, revision=1, request="r")
    assert list(store.judgements.events()) == []
    with store.db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    store.judgements.submit(one, lease.id, body, revision=1, request="r")


def test_fs9_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/home {tmp_path}/net nfs4 rw 0 0\n")
    refuse_network(tmp_path / "labels.db", mounts)
    with pytest.raises(StoreError, match="nfs4"):
        refuse_network(tmp_path / "net" / "labels.db", mounts)


def test_a_store_that_is_not_there_is_not_made_by_opening_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="label init"):
        Store.open(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_store_of_a_later_version_is_left_alone(store: Store, address: str) -> None:
    with store.db.write() as connection:
        connection.exec_driver_sql("INSERT INTO versions VALUES (99)")
    with pytest.raises(StoreError, match="later proxtune"):
        Store.open(address)


def test_nobody_else_may_read_the_file(store: Store, address: str) -> None:
    assert Path(address).stat().st_mode & 0o077 == 0


def test_an_item_knows_what_it_asks() -> None:
    assert pair(1).key == pair(1, priority=3.0, overlap=4).key != pair(2).key
    assert Item(kind="label", prompt=({"role": "user", "content": "Hi"},)).text == "user: Hi"
