"""The health check of a container: exit with 0 if the role that runs in it is ready.

It runs every few seconds in each container, so it imports very little and writes HTTP by hand.
"""

import os
import socket
import sys

TIMEOUT = 4.0


def main() -> int:
    with open("/proc/1/cmdline", "rb") as command:
        is_api = b".api" in command.read()
    port = int(os.environ["API_PORT" if is_api else "HEALTH_PORT"])
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
            connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        print(error)
        return 1
    if answer.startswith(b"HTTP/1.1 200 "):
        return 0
    print(answer.decode(errors="replace"))  # names the failed check; `docker inspect` shows it
    return 1


if __name__ == "__main__":
    sys.exit(main())
