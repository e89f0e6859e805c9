"""The only owner of `--offline`: whatever would reach the network fails with one line instead."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from robustcl.models.errors import UserError

_DOORS = ("getaddrinfo", "create_connection")


def go_offline() -> None:
    """From now on this process opens no connection and looks up no host."""
    for door in _DOORS:
        setattr(socket, door, _refuse)


@contextmanager
def no_network() -> Iterator[None]:
    """Inside, this process opens no connection and looks up no host."""
    before = {door: getattr(socket, door) for door in _DOORS}
    go_offline()
    try:
        yield
    finally:
        for door, held in before.items():
            setattr(socket, door, held)


def _refuse(*words: Any, **more: Any) -> NoReturn:
    host = words[0] if words and isinstance(words[0], str) else "a host"
    raise UserError(f"offline: something tried to reach {host}, expected no network; allow it without --offline")
