"""Free TCP ports of the loopback address."""

import socket

_given: set[int] = set()


def free_port(preferred: int | None = None) -> int:
    """Return a free port: ``preferred`` if it is free. One process never gets the same port twice.

    Another program may take the port before it is used; this is rare, as the range is the system's own.
    """
    if preferred is not None and preferred not in _given and _is_free(preferred):
        _given.add(preferred)
        return preferred
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        # As servers do: a connection in TIME_WAIT does not occupy the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
