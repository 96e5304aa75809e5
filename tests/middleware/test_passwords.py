"""Password files: lines made by `mosquitto_passwd` and by argon2-cffi, refusals, and what is never shown."""

from __future__ import annotations

import base64
import hashlib
import traceback

import argon2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebroker_middleware import passwords
from acebroker_middleware.passwords import SALT_BYTES, PasswordFile, PasswordFileError, hash_password

# made by mosquitto_passwd 2.0.11, with -H sha512 and -H sha512-pbkdf2
CAROL = (
    "carol:$6$2JHRPCUUhIht2gsS$UJx/hQCOAuxgl3ZW6q8kz+JIjFKgUUgk9fTiHjreiJMtrci0suJvPlKyfIJogIyhD9lfHp4tCzhNRLbAgaQLBA=="
)
BOB = (
    "bob:$7$101$gzqhpN3ikZR7na2z$"
    "B3Zsr0HGfn0Wb6PyKNvEogcs65WWwyIugoWf8hrfzrizBHlnwaSbfVgIz/L6O5mJ8iXHStJdrPyCYV6KX2/y9A=="
)
UMLAUT = (
    "jürgen:$7$101$s7Ni8Nb7KAxNaRtB$"
    "G2vNPoEAZ+UJ0jbAjWwNr1HN81GsSglbOv1zEeUN0uZiQDpaZvEFHYLn9LbdoKiqWTf1QW7r1tGUl9x/YmHv+A=="
)
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ALICE = "alice:" + CHEAP.hash("tr0ub4dor", salt=b"0123456789abcdef")
EVERYBODY = "\n".join(["# users", CAROL, "", BOB + " \t\r", UMLAUT, " \t", ALICE]) + "\n"

SALT = base64.b64encode(b"salt of 16 bytes").decode()
DIGEST = base64.b64encode(bytes(range(64))).decode()


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("carol", "correct horse"),
        ("bob", "battery staple"),
        ("jürgen", "pässwörd"),
        ("alice", "tr0ub4dor"),
    ],
)
def test_the_right_password_of_the_right_user(username: str, password: str) -> None:
    known = PasswordFile.parse(EVERYBODY, "users")
    assert len(known) == 4
    assert known.verify(username, password.encode())
    for wrong in ("", password + "x", password[:-1], password.upper(), "\0" + password):
        assert not known.verify(username, wrong.encode())
    for other in {"carol", "bob", "jürgen", "alice", "nobody", "", username + " ", " " + username} - {username}:
        assert not known.verify(other, password.encode())


def test_a_new_hash_round_trips_and_others_can_read_it() -> None:
    encoded = hash_password(b"\xff\0secret", bytes(range(SALT_BYTES)))
    assert encoded == hash_password(b"\xff\0secret", bytes(range(SALT_BYTES)))
    assert encoded != hash_password(b"\xff\0secret", bytes(range(1, SALT_BYTES + 1)))
    assert argon2.PasswordHasher().verify(encoded, b"\xff\0secret")
    known = PasswordFile.parse(f"dave:{encoded}", "users")
    assert known.verify("dave", b"\xff\0secret")
    assert not known.verify("dave", b"\xff")
    assert not known.needs_rehash("dave")


def test_the_salt_has_one_length() -> None:
    for length in (0, 8, SALT_BYTES - 1, SALT_BYTES + 1):
        with pytest.raises(ValueError, match="salt"):
            hash_password(b"x", bytes(length))


def test_what_should_be_hashed_anew() -> None:
    known = PasswordFile.parse(EVERYBODY, "users")
    assert all(known.needs_rehash(username) for username in ("carol", "bob", "jürgen", "alice"))
    assert not known.needs_rehash("nobody")


# --- users that do not exist -------------------------------------------------------------------


def test_an_unknown_user_costs_what_most_users_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = hashlib.pbkdf2_hmac

    def recorded(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        calls.append(iterations)
        return real(name, password, salt, iterations)

    monkeypatch.setattr(passwords.hashlib, "pbkdf2_hmac", recorded)
    rare = BOB.replace("bob:$7$101$", "rare:$7$3$")
    known = PasswordFile.parse("\n".join([CAROL, rare, BOB, UMLAUT]), "users")
    assert known.verify("bob", b"battery staple")
    assert not known.verify("nobody", b"battery staple")
    assert calls == [101, 101]


@pytest.mark.parametrize("text", ["", "# nobody\n", ALICE])
def test_an_unknown_user_costs_argon2_where_that_is_usual(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes: list[bytes] = []

    def recorded(encoded: bytes, password: bytes, kind: argon2.Type) -> bool:
        hashes.append(encoded)
        return True  # as if the decoy's password had been found

    monkeypatch.setattr(passwords, "verify_secret", recorded)
    assert not PasswordFile.parse(text, "users").verify("nobody", b"x")
    (encoded,) = hashes
    reference = ALICE.partition(":")[2] if text == ALICE else hash_password(b"", bytes(SALT_BYTES))
    assert argon2.extract_parameters(encoded.decode()) == argon2.extract_parameters(reference)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice", "no `:`"),
        (":$6$" + SALT + "$" + DIGEST, "no user name"),
        ("bob:", "no hash of a known form"),
        ("bob:hunter2", "no hash of a known form"),
        ("bob:$1$abc$def", "no hash of a known form"),
        ("bob:$2b$12$abcdefghijklmnopqrstuv", "no hash of a known form"),
        ("bob:$5$abc$def", "no hash of a known form"),
        (f"bob:$6${SALT}", "no hash of a known form"),
        (f"bob:$6${SALT}${DIGEST}$", "no hash of a known form"),
        (f"bob:$6${SALT}${DIGEST}:0", "no hash of a known form"),
        (f"bob:$6$not base64${DIGEST}", "no hash of a known form"),
        (f"bob:$6$a===${DIGEST}", "not base64"),
        (f"bob:$6${SALT}${DIGEST[:-4]}", "a digest of"),
        (f"bob:$6${SALT}${DIGEST.replace('Pw==', 'Px==')}", "not base64"),
        (f"bob:$7$0${SALT}${DIGEST}", "iterations"),
        (f"bob:$7$-1${SALT}${DIGEST}", "no hash of a known form"),
        (f"bob:$7$10000001${SALT}${DIGEST}", "iterations"),
        (f"bob:$7$99999999999999${SALT}${DIGEST}", "no hash of a known form"),
        (f"bob:$7$١٠١${SALT}${DIGEST}", "no hash of a known form"),
        (f"bob:$7$101${SALT}${DIGEST[:-8]}", "a digest of"),
        (f"bob:$7$101${'A' * 1400}${DIGEST}", "usual length"),
        ("bob:$argon2i$v=19$m=65536,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "no hash of a known form"),
        ("bob:$argon2id$v=16$m=65536,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "no hash of a known form"),
        ("bob:$argon2id$v=19$m=1048577,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "beyond"),
        ("bob:$argon2id$v=19$m=65536,t=65,p=4$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "beyond"),
        ("bob:$argon2id$v=19$m=65536,t=3,p=65$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "beyond"),
        ("bob:$argon2id$v=19$m=65536,t=0,p=4$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "no effort"),
        ("bob:$argon2id$v=19$m=31,t=1,p=4$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg", "no effort"),
        ("bob:$argon2id$v=19$m=64,t=1,p=1$MDEy$MDEyMzQ1Njc4OWFiY2RlZg", "less than 8"),
        ("bob:$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEy", "less than 8"),
        ("bob:$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZh$MDEyMzQ1Njc4OWFiY2RlZg", "not base64"),
        ("carol:" + ALICE.partition(":")[2], "second line for 'carol'"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(line: str, said: str) -> None:
    with pytest.raises(PasswordFileError) as caught:
        PasswordFile.parse(f"# users\n{CAROL}\n{line}\n", "/etc/passwd.mqtt")
    assert str(caught.value).startswith("/etc/passwd.mqtt:3: ")
    assert said in str(caught.value)


def test_ten_million_iterations_are_the_end_but_included() -> None:
    assert len(PasswordFile.parse(f"bob:$7$10000000${SALT}${DIGEST}", "users")) == 1


# --- what is never shown -----------------------------------------------------------------------


def test_no_hash_in_any_representation() -> None:
    known = PasswordFile.parse(EVERYBODY, "users")
    assert repr(known) == "<PasswordFile 'users', 4 users>"
    shown = repr(known) + str(known) + repr(known._hashes) + repr(known._decoy)
    for line in (CAROL, BOB, UMLAUT, ALICE):
        for part in line.split("$")[2:]:
            assert part not in shown


def test_no_hash_and_no_password_in_an_error() -> None:
    for secret in ("hunter2", f"$7$10000001${SALT}${DIGEST}", f"$6${SALT}$c2VjcmV0", f"$6$c2VjcmV0c2${DIGEST}"):
        with pytest.raises(PasswordFileError) as caught:
            PasswordFile.parse(f"bob:{secret}", "users")
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        for part in (secret, SALT, DIGEST, "c2VjcmV0"):
            assert part not in told


# --- replacing a line --------------------------------------------------------------------------


def test_replacing_and_appending() -> None:
    text = f"# users\n{CAROL}\n\n bob:old\n{BOB}\r\n# bob:$comment\n"
    encoded = ALICE.partition(":")[2]
    replaced = PasswordFile.replace_line(text, "bob", encoded)
    assert replaced == f"# users\n{CAROL}\n\n bob:old\nbob:{encoded}\n# bob:$comment\n"
    assert PasswordFile.replace_line(text, "alice", encoded) == text + f"alice:{encoded}\n"
    assert PasswordFile.replace_line("", "alice", encoded) == f"alice:{encoded}\n"
    assert PasswordFile.replace_line(CAROL, "alice", encoded) == f"{CAROL}\nalice:{encoded}\n"
    assert PasswordFile.replace_line(CAROL, "carol", encoded) == f"carol:{encoded}"


@pytest.mark.parametrize("username", ["", "a:b", "a\nb", "a\rb", "a\0b", "#a", "a\n", "x\ncarol:$6$a$b\ny"])
def test_names_that_cannot_stand_in_a_file(username: str) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        PasswordFile.replace_line(CAROL, username, ALICE.partition(":")[2])


NAMES = st.text(min_size=1, max_size=8)


@settings(deadline=None, max_examples=200)
@given(st.lists(NAMES, max_size=6), NAMES)
def test_a_replaced_line_is_read_back_and_the_others_stay(names: list[str], username: str) -> None:
    text = ""
    accepted = {}
    for number, name in enumerate([*names, username]):
        encoded = f"$7${number + 1}${SALT}${DIGEST}"
        try:
            text = PasswordFile.replace_line(text, name, encoded)
        except ValueError:
            continue
        accepted[name] = number + 1
    assert {name: known.cost[0] for name, known in PasswordFile.parse(text, "users")._hashes.items()} == accepted


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="ab:$#6719=+/,mtpvargon2id \r\n\0", max_size=60))
def test_any_text_is_a_file_or_refused(text: str) -> None:
    try:
        PasswordFile.parse(text, "users")
    except PasswordFileError as error:
        assert str(error).startswith("users:")
