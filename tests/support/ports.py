"""Ports for the processes that tests start, also where several test runs share a machine."""

from __future__ import annotations

import socket
from random import SystemRandom

_RANGE = range(10_000, 32_000)
"""Below the ports that the kernel gives to outgoing connections, so that none of them takes one between our look and its use."""
_CHANCE = SystemRandom()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    while True:
        port = _CHANCE.choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
