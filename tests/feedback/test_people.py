"""New passwords, and what a store tells a person of themselves, on SQLite and on PostgreSQL."""

import json

import pytest
from sqlalchemy import delete, select

from proxtune.errors import StoreError
from proxtune.feedback.store import Store
from proxtune.feedback.store.people import INVITED, digest
from proxtune.feedback.store.tables import MIGRATIONS, resets, versions
from tests.feedback.conftest import KINDS, Clock, pair

on_both = pytest.mark.parametrize("address", KINDS, indirect=True)


@on_both
def test_a_link_for_a_new_password_is_one_persons_good_once_and_for_a_time(store: Store, clock: Clock) -> None:
    anna, berta = (store.people.add(name, "annotator", "old").id for name in ("anna", "berta"))
    session, others = store.people.begin_session(anna), store.people.begin_session(berta)
    token = store.people.reset(anna)
    assert store.people.resetting(token) == store.people.by_name("anna")[0]
    assert store.people.session(session) is not None, "until it is used nothing changes"
    with store.db.read() as connection:
        assert connection.scalars(select(resets.c.token)).all() == [digest(token)]
    assert store.people.use_reset(token, "new").id == anna
    assert [store.people.by_name(name)[1] for name in ("anna", "berta")] == ["new", "old"]
    assert store.people.session(session) is None
    assert store.people.session(others) is not None
    with pytest.raises(StoreError, match="used or is too old"):
        store.people.use_reset(token, "newer")
    late = store.people.reset(anna)
    clock.time += INVITED + 1
    assert store.people.resetting(late) is None
    with pytest.raises(StoreError, match="used or is too old"):
        store.people.use_reset(late, "newer")
    assert store.people.by_name("anna")[1] == "new"


@on_both
def test_of_two_links_the_newer_is_good_and_none_after_a_change_or_for_who_is_locked(store: Store) -> None:
    store.people.add("root", "admin", "hash")
    anna = store.people.add("anna", "annotator", "old").id
    earlier, newer = store.people.reset(anna), store.people.reset(anna)
    assert (store.people.resetting(earlier), store.people.resetting(newer).id) == (None, anna)
    store.people.change(anna, password="chosen")
    assert store.people.resetting(newer) is None
    token = store.people.reset(anna)
    store.people.change(anna, active=False)
    assert store.people.resetting(token) is None
    for person in (anna, 999):
        with pytest.raises(StoreError, match="locked, or is nobody here"):
            store.people.reset(person)
    store.people.erase(anna)
    store.people.change(anna, active=True)
    assert store.people.resetting(token) is None, "an erased person's link went with them"


def test_a_store_from_before_there_were_such_links_gets_their_table(store: Store, address: str) -> None:
    with store.db.write() as connection:
        resets.drop(connection)
        connection.execute(delete(versions).where(versions.c.version == 3))
    with Store.open(address) as opened:
        person = opened.people.add("anna", "annotator").id
        assert opened.people.resetting(opened.people.reset(person)) is not None
        with opened.db.read() as connection:
            assert list(connection.scalars(select(versions.c.version))) == list(range(1, len(MIGRATIONS) + 1))


@on_both
def test_a_person_is_told_all_that_is_held_of_them_and_nothing_of_others(store: Store, clock: Clock) -> None:
    store.queue.add([pair(i, overlap=2) for i in range(3)])
    token = store.people.invite("annotator")
    anna = store.people.join(token, "anna", "$argon2-hers").id
    berta = store.people.add("berta", "admin", "$argon2-his").id
    session, link = store.people.begin_session(anna), store.people.reset(anna)
    lease = store.queue.next(anna)
    says = {"kind": "pair", "preference": 2, "comment": "hers"}
    store.judgements.submit(anna, lease.id, says, revision=1, request="the-first")
    clock.time += 60
    store.judgements.withdraw(anna, lease.id, revision=2, request="the-second")
    other = store.queue.next(berta)
    store.judgements.submit(berta, other.id, {**says, "comment": "of another"}, revision=1, request="another")
    store.people.note(berta, "person", {"person": anna, "change": "reviewer"})
    store.people.note(berta, "overlap", {"batch": "of another", "overlap": 2})

    told = store.about(anna)
    assert set(told) == {"person", "invitations", "password_links", "sessions", "judgements", "shown", "log"}
    assert (told["person"]["name"], told["person"]["role"]) == ("anna", "annotator")
    assert told["person"]["since"] == "1970-01-12T13:46:40+00:00"  # 1,000,000 s
    assert told["invitations"] == [{"role": "annotator", "expires": "1970-01-15T13:46:40+00:00"}]
    assert told["password_links"] == [{"expires": "1970-01-15T13:46:40+00:00"}]
    assert told["sessions"] == [{"began": "1970-01-12T13:46:40+00:00", "seen": "1970-01-12T13:46:40+00:00"}]
    first, second = told["judgements"]
    assert first["body"] == {**says, "both_bad": False, "flags": []}, "as she saw it, whatever the order was"
    assert (second["body"], second["revision"], second["at"]) == (None, 2, "1970-01-12T13:47:40+00:00")
    assert (first["stands"], second["stands"]) == (False, False)
    assert [one["draft"]["comment"] for one in told["shown"]] == ["hers"]
    assert [one["what"] for one in told["log"]] == ["added", "person"]
    text = json.dumps(told)
    secrets = (token, session, link)
    for hidden in ("$argon2", "the-first", "of another", *secrets, *map(digest, secrets)):
        assert hidden not in text
