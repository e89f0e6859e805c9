"""The only owner of `--offline`: whatever would reach the network fails with one line instead."""

import socket
from typing import Any, NoReturn

from robustcl.models.errors import UserError


def go_offline() -> None:
    """From now on this process opens no connection and looks up no host."""

    def refuse(*words: Any, **more: Any) -> NoReturn:
        host = words[0] if words and isinstance(words[0], str) else "a host"
        raise UserError(f"offline: something tried to reach {host}, expected no network; allow it without --offline")

    setattr(socket, "getaddrinfo", refuse)  # noqa: B010 (typed as a function, replaced on purpose)
    setattr(socket, "create_connection", refuse)  # noqa: B010
