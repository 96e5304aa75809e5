"""`trio-acebroker passwd`: what it writes, what it leaves, what it refuses."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import argon2
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from trio_acebroker.cli import main
from trio_acebroker.cli.passwd import with_user, without_user


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users"


def run(file: Path, *arguments: str, password: str = "secret\n") -> Result:
    return CliRunner().invoke(main, ["passwd", str(file), *arguments], input=password)


def verifies(line: str, password: str) -> bool:
    """Whether a line of the file is a user with this password, hashed by argon2id."""
    _, _, password_hash = line.partition(":")
    assert password_hash.startswith("$argon2id$")
    try:
        return argon2.PasswordHasher().verify(password_hash, password)
    except argon2.exceptions.VerifyMismatchError:
        return False


def test_users_are_added_changed_and_deleted(file: Path) -> None:
    assert run(file, "ann").output == f"{file}: user 'ann' added\n"
    assert run(file, "bob", password="other").output == f"{file}: user 'bob' added\n"
    ann, bob = file.read_text().splitlines()
    assert ann.startswith("ann:")
    assert verifies(ann, "secret")
    assert verifies(bob, "other")

    assert run(file, "ann", password="new\r\nmore").output == f"{file}: user 'ann' changed\n"
    changed, still_bob = file.read_text().splitlines()
    assert verifies(changed, "new")
    assert not verifies(changed, "secret")
    assert still_bob == bob

    assert run(file, "ann", "--delete").output == f"{file}: user 'ann' deleted\n"
    assert file.read_text() == f"{bob}\n"


def test_the_same_password_gets_another_hash(file: Path) -> None:
    run(file, "ann")
    run(file, "bob")
    ann, bob = file.read_text().splitlines()
    assert ann.partition(":")[2] != bob.partition(":")[2]


def test_only_the_owner_can_read_the_file(file: Path) -> None:
    run(file, "ann")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    run(file, "ann")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["users"]


def test_the_file_is_replaced_as_a_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ann:old\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trio_acebroker.cli.passwd.os.fsync", full)
    result = run(file, "ann")
    assert result.exit_code == 1
    assert result.output == f"Error: {file}: No space left on device\n"
    assert [path.name for path in file.parent.iterdir()] == ["users"]
    assert file.read_text() == "ann:old\n"


def test_a_link_stays_a_link(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    file.write_text("bob:old\n")
    run(link, "ann")
    assert link.is_symlink()
    assert file.read_text().startswith("bob:old\nann:")


def test_an_unknown_user_cannot_be_deleted(file: Path) -> None:
    result = run(file, "ann", "--delete")
    assert (result.exit_code, result.output) == (1, f"Error: {file}: there is no user 'ann'\n")
    assert not file.exists()


@pytest.mark.parametrize("user", ["", "a:b", "a\nb", "#ann", "a\rb", "x" * 65_536])
def test_names_that_the_file_cannot_hold(file: Path, user: str) -> None:
    result = run(file, user)
    assert result.exit_code == 1
    assert "a user name is not empty" in result.output
    assert not file.exists()


@pytest.mark.parametrize("password", ["", "\n", "x" * 65_536])
def test_passwords_that_mqtt_cannot_carry(file: Path, password: str) -> None:
    result = run(file, "ann", password=password)
    assert result.exit_code == 1
    assert "a password is not empty" in result.output
    assert not file.exists()


def test_files_that_cannot_be_used(file: Path) -> None:
    file.write_bytes(b"\xff")
    assert run(file, "ann").exit_code == 1
    assert file.read_bytes() == b"\xff"
    nowhere = run(file.parent / "none" / "users", "ann")
    assert nowhere.exit_code == 1
    assert "No such file or directory" in nowhere.output


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(file: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "trio_acebroker", "passwd", str(file), "ann"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,  # without a controlling terminal, the prompt is on standard error
        )
        shown = b""
        for _ in range(2):
            while not shown.endswith(b": "):
                shown += os.read(ours, 100)
            os.write(ours, b"secret\n")
            shown += b"|"
        with process:
            output, _ = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert b"added" in output
    assert b"secret" not in shown
    assert b"Repeat" in shown
    assert verifies(file.read_text().rstrip("\n"), "secret")


def test_other_lines_stay() -> None:
    text = "# users\n\nbob:$7$101$a$b\nann:1\nnonsense\nann:2\ncarl:3"
    assert with_user(text, "ann", "new") == "# users\n\nbob:$7$101$a$b\nann:new\nnonsense\ncarl:3\n"
    assert without_user(text, "ann") == "# users\n\nbob:$7$101$a$b\nnonsense\ncarl:3\n"
    assert with_user("", "ann", "new") == "ann:new\n"
    assert with_user("#ann:old\n", "ann", "new") == "#ann:old\nann:new\n"


NAMES = st.sampled_from(["a", "b", "ab", "é"])


@given(st.lists(st.tuples(NAMES, st.none() | st.text("x$=", min_size=1))))
def test_a_sequence_of_changes_is_as_a_dictionary(steps: list[tuple[str, str | None]]) -> None:
    text = "# head\n"
    model: dict[str, str] = {}
    for user, password_hash in steps:
        if password_hash is None:
            text = without_user(text, user)
            model.pop(user, None)
        else:
            text = with_user(text, user, password_hash)
            model[user] = password_hash
        assert text == "# head\n" + "".join(f"{name}:{value}\n" for name, value in model.items())
