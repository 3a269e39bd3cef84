"""Ports for the servers that tests start."""

import os
import random
import socket
from itertools import count

from fossa.errors import FossaError

#: Below the ports that the kernel gives to outgoing connections: one that is free while its server
#: is down is still free when that is started again.
_FIRST = 20_000
#: So many processes have ports of their own, and so many each.
_PROCESSES, _EACH = 60, 200

_numbers = count(random.SystemRandom().randrange(_EACH))


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, for a server that is about to start there.

    Tests that run beside each other in several processes are given different ones.

    Raises:
        FossaError: none of those for this process is free.
    """
    first = _FIRST + os.getpid() % _PROCESSES * _EACH
    for _ in range(_EACH):
        port = first + next(_numbers) % _EACH
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise FossaError(f"none of the ports from {first} to {first + _EACH - 1} is free")
