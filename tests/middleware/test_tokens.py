"""Kept tokens: one for each key, bounded, none taken away while it is used; and what verification remembers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from acebroker_ace.errors import ExpiredToken, StaleNonce
from acebroker_ace.keys import Key
from acebroker_ace.scope import Scope
from acebroker_ace.token import AccessToken, TokenVerifier
from acebroker_middleware.errors import QuotaExceeded
from acebroker_middleware.testing import SetClock
from acebroker_middleware.tokens import TokenLimits, Tokens
from acebroker_middleware.verification import ClientNonces, Verification
from tests.ace.issuer import jwk
from tests.ace.test_token import BROKER, CLIENT_ED25519, ISSUER, SERVER, claims, jwt_of
from tests.conformance.statements import ace

WALL = 1_800_000_000.0


def token(
    key: int = 1,
    *,
    subject: str | None = "device1",
    issuer: str = "https://as",
    issued_at: float | None = None,
    expires_at: float | None = WALL + 100,
    kid: bytes | None = None,
    number: int = 0,
) -> AccessToken:
    """A verified token for one of many keys; `number` tells its octets apart."""
    return AccessToken(
        issuer=issuer,
        subject=subject,
        scope=Scope(),
        expires_at=expires_at,
        issued_at=issued_at,
        key=Key(bytes([key]) * 32, kid=kid),
        certificate_thumbprint=None,
        connection_types=frozenset(),
        thumbprint=bytes([key, number]) * 16,
    )


def tokens(**limits: int) -> tuple[Tokens, SetClock]:
    clock = SetClock()
    clock.wall = WALL
    return Tokens(clock, TokenLimits(**limits)), clock


class Holder:
    """Somebody who lives by a token."""

    def __init__(self) -> None:
        self.told = 0

    def replaced(self) -> None:
        self.told += 1


# ---- one for each key ----


@ace("ACE-2.2.2-5", "ACE-9202-3", "ADJ-9200-36")
def test_one_token_for_each_key() -> None:
    store, _ = tokens()
    first, second, other = token(1), token(1, number=1), token(2)
    place = store.keep(first)
    assert store.keep(other).token is other
    assert store.keep(second) is place and place.token is second
    assert len(store) == 2
    found = store.bound_to(first.confirmed_by)
    assert found is not None and found.token is second
    assert store.with_octets(first.thumbprint) is None
    assert store.with_octets(second.thumbprint) is found


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [(5, 6, True), (5, 5, True), (6, 5, False), (None, 5, True), (None, None, True), (5, None, False)],
)
@ace("ACE-2.2.2-5")
def test_an_older_token_takes_no_rights_away(old: float | None, new: float | None, replaced: bool) -> None:
    store, _ = tokens()
    first, second = token(issued_at=old), token(issued_at=new, number=1)
    store.keep(first)
    assert store.keep(second).token is (second if replaced else first)
    assert len(store) == 1


def test_who_lives_by_a_token_hears_of_a_newer_one_and_of_nothing_else() -> None:
    store, _ = tokens()
    place, holder = store.keep(token(issued_at=5)), Holder()
    store.hold(place, holder)
    store.keep(token(issued_at=5))  # the same octets
    store.keep(token(issued_at=4, number=1))
    store.keep(token(2))
    assert holder.told == 0
    store.keep(token(issued_at=6, number=2))
    assert holder.told == 1
    store.let_go(place, holder)
    store.keep(token(issued_at=7, number=3))
    assert holder.told == 1


def test_a_certificate_is_a_key_of_its_own() -> None:
    store, _ = tokens()
    bound = AccessToken(
        issuer="https://as",
        subject=None,
        scope=Scope(),
        expires_at=None,
        issued_at=None,
        key=None,
        certificate_thumbprint=bytes(32),
        connection_types=frozenset(),
        thumbprint=bytes(32),
    )
    place = store.keep(bound)
    assert store.bound_to(bytes(32)) is place


# ---- names ----


@ace("ACE-9202-6", "ACE-9202-7")
def test_a_key_is_found_by_its_kid_and_whoever_had_the_name_first_keeps_it() -> None:
    store, _ = tokens()
    first, second = token(1, kid=b"k"), token(2, kid=b"k", issuer="https://other")
    place = store.keep(first)
    store.keep(second)
    assert store.named(b"k") is place
    assert store.named(b"x") is None
    assert first.key is not None and second.key is not None
    assert dict(store.known_keys) == {("https://as", b"k"): first.key, ("https://other", b"k"): second.key}
    store.discard(second.confirmed_by)
    assert store.named(b"k") is place
    store.discard(first.confirmed_by)
    assert store.named(b"k") is None
    assert not store.known_keys


@ace("ACE-2.4.2-3", "ACE-6.1-3")
def test_the_token_proven_last_under_a_client_identifier() -> None:
    store, _ = tokens()
    first, second = store.keep(token(1)), store.keep(token(2))
    store.proven(first, "client")
    assert store.of_client("client") is first
    store.proven(second, "client")
    assert store.of_client("client") is second
    store.proven(second, "other")
    assert store.of_client("client") is None
    assert store.of_client("other") is second
    store.discard(second.token.confirmed_by)
    assert store.of_client("other") is None


def test_nobody_takes_the_name_of_another_subject() -> None:
    store, clock = tokens()
    mine, theirs = store.keep(token(1)), store.keep(token(2, subject="device2", expires_at=None))
    store.proven(mine, "client")
    store.proven(theirs, "client")
    assert store.of_client("client") is mine
    clock.wall = WALL + 100
    store.proven(theirs, "client")
    assert store.of_client("client") is theirs


# ---- the end ----


@ace("ACE-9202-4")
def test_an_expired_token_is_gone_however_it_is_asked_for() -> None:
    for way in ("bound_to", "named", "with_octets", "of_client"):
        store, clock = tokens()
        place = store.keep(token(kid=b"k"))
        store.proven(place, "client")
        asked = {
            "bound_to": place.token.confirmed_by,
            "named": b"k",
            "with_octets": place.token.thumbprint,
            "of_client": "client",
        }[way]
        clock.wall = WALL + 99.9
        assert getattr(store, way)(asked) is place
        clock.wall = WALL + 100
        assert getattr(store, way)(asked) is None
        assert len(store) == 0


@ace("ACE-9202-4")
def test_what_has_expired_is_swept_and_what_was_replaced_is_not() -> None:
    store, clock = tokens()
    store.keep(token(1))
    store.keep(token(2))
    store.keep(token(2, expires_at=WALL + 200, number=1))
    store.keep(token(3, expires_at=None))
    clock.wall = WALL + 150
    store.sweep()
    assert len(store) == 2
    clock.wall = WALL + 1e9
    store.sweep()
    assert len(store) == 1


def test_replacing_again_and_again_takes_no_memory() -> None:
    store, _ = tokens()
    for number in range(10_000):
        store.keep(token(1, number=number % 256, expires_at=WALL + 1 + number))
    assert len(store._ends) < 2_000


# ---- bounds ----


@ace("ACE-8-6")
def test_the_longest_unused_makes_room_and_none_in_use() -> None:
    store, _ = tokens(tokens_max=3)
    places = [store.keep(token(key, subject=None)) for key in (1, 2, 3)]
    a, b, d = Holder(), Holder(), Holder()
    store.hold(places[0], a)
    store.hold(places[1], b)
    store.let_go(places[1], b)  # used just now: behind the third
    store.keep(token(4, subject=None))
    kept = [store.bound_to(place.token.confirmed_by) for place in places]
    assert kept == [places[0], places[1], None]
    for place, holder in ((places[1], b), (store.keep(token(4, subject=None)), d)):
        store.hold(place, holder)
    with pytest.raises(QuotaExceeded, match="limit: tokens"):
        store.keep(token(5, subject=None))
    assert store.keep(token(1, subject=None, number=1)) is places[0]  # a place that there is takes no room
    store.let_go(places[0], a)
    store.let_go(places[0], a)
    store.keep(token(5, subject=None))
    assert store.bound_to(places[0].token.confirmed_by) is None
    assert len(store) == 3


def test_a_token_held_twice_is_in_use_until_both_let_go() -> None:
    store, _ = tokens(tokens_max=1)
    place, a, b = store.keep(token(1)), Holder(), Holder()
    store.hold(place, a)
    store.hold(place, b)
    store.let_go(place, a)
    with pytest.raises(QuotaExceeded):
        store.keep(token(2))
    store.let_go(place, b)
    store.keep(token(2))
    store.let_go(place, b)  # its place is gone
    assert len(store) == 1


@pytest.mark.parametrize(
    ("limit", "more"),
    [
        ("per_issuer_max", {"issuer": "https://as", "subject": "x"}),
        ("per_subject_max", {}),
        ("per_source_max", {"issuer": "https://other", "subject": "x"}),
    ],
)
@ace("ACE-8-6")
def test_quotas(limit: str, more: dict[str, Any]) -> None:
    store, _ = tokens(**{limit: 2})
    store.keep(token(1), "10.0.0.1")
    store.keep(token(2), "10.0.0.1")
    refused = token(3, **more)
    with pytest.raises(QuotaExceeded, match="limit: tokens per"):
        store.keep(refused, "10.0.0.1")
    assert store.bound_to(refused.confirmed_by) is None
    # a token of the same key takes no more of any quota
    store.keep(token(1, number=1), "10.0.0.1")
    store.keep(token(4, issuer="https://third", subject="y"), "10.0.0.2")
    store.discard(token(2).confirmed_by)
    store.keep(refused, "10.0.0.1")
    assert len(store) == 3


def test_a_refused_replacement_changes_nothing() -> None:
    store, _ = tokens(per_subject_max=1)
    place = store.keep(token(1))
    store.keep(token(2, subject="x"))
    with pytest.raises(QuotaExceeded):
        store.keep(token(1, subject="x", number=1))
    assert place.token.subject == "device1"
    assert store.bound_to(place.token.confirmed_by) is place


def test_nothing_is_left_behind_whatever_happened() -> None:
    """Random calls: the books agree with what is kept, and are empty in the end."""
    chance = random.Random(7)
    store, clock = tokens(tokens_max=12, per_subject_max=5, per_source_max=6)
    held: list[tuple[Any, Holder]] = []
    for _ in range(3_000):
        key = chance.randrange(20)
        try:
            place = store.keep(
                token(
                    key,
                    subject=chance.choice([None, "a", "b"]),
                    issuer=chance.choice(["x", "y"]),
                    expires_at=chance.choice([None, clock.wall + chance.randrange(1, 50)]),
                    kid=chance.choice([None, b"1", b"2"]),
                    number=chance.randrange(3),
                ),
                chance.choice(["", "s", "t"]),
            )
        except QuotaExceeded:
            place = None
        if place is not None and chance.random() < 0.3:
            holder = Holder()
            store.hold(place, holder)
            held.append((place, holder))
        if place is not None and chance.random() < 0.5:
            store.proven(place, chance.choice("cdef"))
        while held and chance.random() < 0.3:
            store.let_go(*held.pop(chance.randrange(len(held))))
        if chance.random() < 0.1:
            store.discard(token(key).confirmed_by)
        clock.wall += chance.random()
        assert len(store) <= 12
        assert set(store._idle) == {name for name, each in store._kept.items() if not each.holders}
        assert sum(store._of_issuers.values()) == len(store)
        assert sum(store._of_sources.values()) == sum(bool(each.source) for each in store._kept.values())
        assert sum(store._of_subjects.values()) == sum(e.token.subject is not None for e in store._kept.values())
    for name in list(store._kept):
        store.discard(name)
    empty = (store._kept, store._idle, store._named, store._keys, store._of_clients, store._by_octets)
    assert not any((*empty, store._of_issuers, store._of_subjects, store._of_sources))


def test_no_secret_in_repr() -> None:
    store, _ = tokens()
    place = store.keep(token(65))
    assert "A" * 8 not in repr(place) and (b"A" * 8).hex() not in repr(place)


# ---- verification ----


def verification(client_nonces: bool = False) -> tuple[Verification, Tokens, SetClock]:
    store, clock = tokens()
    clock.wall = WALL
    nonces = ClientNonces(bytes(32), clock, 300) if client_nonces else None
    return Verification(TokenVerifier([SERVER], [BROKER]), clock, store, [ISSUER], nonces), store, clock


@ace("ADJ-9200-20", "ADJ-9200-22")
def test_a_client_nonce_is_fresh_for_a_while_and_only_ours() -> None:
    verifying, _, clock = verification(client_nonces=True)
    nonces = verifying.client_nonces
    assert nonces is not None
    nonce = nonces.give()
    issued = jwt_of(claims(exp=WALL + 1e6, cnonce=nonce))
    verifying.verify(issued)
    for other in (bytes(16), nonce[:-1], nonce[:-1] + bytes([nonce[-1] ^ 1]), b"", None):
        assert other not in nonces
    with pytest.raises(StaleNonce):
        verifying.verify(jwt_of(claims(exp=WALL + 1e6, cnonce=bytes(16))))
    with pytest.raises(StaleNonce):
        verifying.verify(jwt_of(claims(exp=WALL + 1e6)))
    clock.now += 300
    verifying.verify(issued)
    clock.now += 1
    with pytest.raises(StaleNonce):
        verifying.verify(issued)
    assert ClientNonces(bytes(31) + b"1", clock, 300).give() != nonces.give()


@ace("ACE-2.2.4.1-18")
def test_a_token_that_is_kept_is_not_verified_again() -> None:
    verifying, store, clock = verification(client_nonces=True)
    assert verifying.client_nonces is not None
    issued = jwt_of(claims(exp=WALL + 1e6, cnonce=verifying.client_nonces.give()))
    first = verifying.verify(issued)
    store.keep(first)
    clock.now += 1_000
    assert verifying.verify(issued) is first
    clock.wall = WALL + 1e6
    with pytest.raises(ExpiredToken):
        verifying.verify(issued)


@ace("ADJ-9200-34")
def test_exi_is_counted_for_each_issuer() -> None:
    verifying, _, clock = verification()
    issued = jwt_of(claims(exp=None, exi=60, jti=f"{BROKER}7"))
    assert verifying.verify(issued).expires_at == WALL + 60
    clock.wall = WALL + 30
    assert verifying.verify(issued).expires_at == WALL + 60
    clock.wall = WALL + 60
    with pytest.raises(ExpiredToken):
        verifying.verify(issued)


@ace("ACE-9202-6")
def test_a_kid_alone_names_the_key_of_a_kept_token() -> None:
    verifying, store, _ = verification()
    key = {"jwk": jwk(CLIENT_ED25519, kid="k")}
    store.keep(verifying.verify(jwt_of(claims(exp=WALL + 50, cnf=key))))
    renewed = verifying.verify(jwt_of(claims(exp=WALL + 90, cnf={"kid": "k"})))
    place = store.keep(renewed)
    assert place.token is renewed and len(store) == 1
