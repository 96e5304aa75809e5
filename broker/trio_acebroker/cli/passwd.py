"""`trio-acebroker passwd`: set or delete the password of one user in a password file.

One line a user, `name:hash`, with argon2id hashes in the PHC form. Other lines (comments, users with
mosquitto's `$6$` and `$7$` hashes) stay as they are. The file is replaced as a whole, so that a broker
that reads it meanwhile sees the old or the new one, and only its owner can read it (mode 0600).

A password is never an argument: other users of the machine see those.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import argon2
import click

__all__ = ["command", "with_user", "without_user"]

#: MQTT carries User Name and Password with a length of two octets
OCTETS_MAX = 65_535


@click.command("passwd")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("user")
@click.option("--delete", is_flag=True, help="Delete the user.")
def command(file: Path, user: str, delete: bool) -> None:
    """Set the password of USER in the password file FILE, or delete USER.

    A file that does not exist is made. The password is asked for, or is the first line of standard input where that
    is no terminal.
    """
    _check_user(user)
    try:
        old = file.read_text(encoding="utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {error}") from None
    known = any(_user_of(line) == user for line in old.splitlines())
    if delete:
        if not known:
            raise click.ClickException(f"{file}: there is no user {user!r}")
        new = without_user(old, user)
    else:
        new = with_user(old, user, argon2.PasswordHasher().hash(_read_password()))
    try:
        _replace(file, new)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None
    click.echo(f"{file}: user {user!r} {'deleted' if delete else 'changed' if known else 'added'}")


def with_user(text: str, user: str, password_hash: str) -> str:
    """`text` of a password file in which `user` has this hash: in the same line, or in a new last one."""
    entry = f"{user}:{password_hash}"
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if _user_of(line) == user:
            rest = [other for other in lines[index + 1 :] if _user_of(other) != user]
            return _joined([*lines[:index], entry, *rest])
    return _joined([*lines, entry])


def without_user(text: str, user: str) -> str:
    """`text` of a password file without `user`."""
    return _joined([line for line in text.splitlines() if _user_of(line) != user])


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _user_of(line: str) -> str | None:
    user, colon, _ = line.partition(":")
    return user if colon and not line.startswith("#") else None


def _check_user(user: str) -> None:
    if not user or len(user.encode()) > OCTETS_MAX or user.startswith("#") or not set(user).isdisjoint(":\r\n\0"):
        raise click.ClickException(
            "a user name is not empty, does not begin with #, and is without colon, line end and U+0000"
        )


def _read_password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password or len(password.encode()) > OCTETS_MAX:
        raise click.ClickException("a password is not empty, and at most 65,535 octets")
    return password


def _replace(file: Path, text: str) -> None:
    """Write beside the file, then rename: whole or not at all. An existing file keeps its owner."""
    target = file.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if target.exists():
                owner = target.stat()
                if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(stream.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
