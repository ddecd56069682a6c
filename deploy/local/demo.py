"""Import, sell and export an event through the gateway, as users do, and check the result of every step.

``python -m deploy.local demo [ARCHIVE]`` uses the local cluster, ``demonstrate`` any cluster. The exit code is 0
only if every check passed.
"""

import asyncio
import hashlib
import io
import json
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw

from deploy.local.__main__ import up_in_background
from deploy.local.issuer import load_issuer
from deploy.local.running import read_running, running_pid, state_folder

ARCHIVE = Path(__file__).with_name("demo-archive.zip")
ORGANIZER = "demo"
OTHER_ZONES = ("America/New_York", "Asia/Tokyo")
PATIENCE = 300.0


class CheckFailed(Exception):
    """A step ended with a wrong result."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise CheckFailed(what)


@dataclass
class Demo:
    http: httpx.AsyncClient
    archive: Path
    event: dict[str, Any]

    async def get(self, path: str, **params: Any) -> Any:
        return _body(await self.http.get(path, params=params))

    async def post(self, path: str, **body: Any) -> Any:
        return _body(await self.http.post(path, json=body))


def _body(response: httpx.Response) -> Any:
    if response.is_error:
        raise CheckFailed(f"{response.request.method} {response.request.url.path}: {response.text[:600]}")
    return response.json()


class Step:
    """One line of output: the result and its duration."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""
        self.details: list[str] = []


@asynccontextmanager
async def step(title: str) -> AsyncIterator[Step]:
    current = Step(title)
    started = time.perf_counter()
    yield current
    print(f"✓ {title}: {current.result}  ({time.perf_counter() - started:.2f} s)", flush=True)
    for line in current.details:
        print(f"    {line}", flush=True)


def main(argv: Sequence[str]) -> int:
    archive = Path(argv[0]) if argv and argv[0] else ARCHIVE
    if not archive.is_file():
        print(f"Archive not found: {archive}. Give the path of an Open Event archive.", file=sys.stderr)
        return 2
    state = state_folder()
    if running_pid(state) is None and (failed := up_in_background(state)):
        return failed
    running = read_running(state)
    if running is None or not running.ready:
        print("The cluster of this checkout is still starting: `make logs` shows its progress.", file=sys.stderr)
        return 1
    token = load_issuer(state / "issuer").issue("demo", org=ORGANIZER)
    commands = {
        "token": "make token ORG=demo",
        "logs, processes": "make logs, make ps",
        "stop": "make down",
    }
    return demonstrate(running.gateway_url, token, archive, commands=commands, logs="make logs")


def demonstrate(gateway: str, token: str, archive: Path, *, commands: Mapping[str, str], logs: str) -> int:
    """Run all steps on a running cluster; return the exit code.

    ``commands`` are printed at the end, the command ``logs`` if the cluster cannot be reached.
    """
    try:
        asyncio.run(_demo(gateway, token, archive, commands))
    except CheckFailed as failure:
        print(f"✗ {failure}", file=sys.stderr)
        return 1
    except httpx.HTTPError as failure:
        print(f"✗ {type(failure).__name__}: {failure} (`{logs}` shows the logs of the services)", file=sys.stderr)
        return 1
    return 0


async def _demo(gateway: str, token: str, archive: Path, commands: Mapping[str, str]) -> None:
    async with httpx.AsyncClient(
        base_url=gateway, headers={"Authorization": f"Bearer {token}"}, timeout=60
    ) as http:
        demo = Demo(http, archive, {})
        await import_archive(demo)
        await show_first_day(demo)
        await sell_tickets(demo)
        await shrink_picture(demo)
        await export_event(demo)
        async with step("addresses and commands") as now:
            docs = await http.get("/docs")
            check(docs.status_code == 200 and "swagger" in docs.text.lower(), "/docs must be served")
            now.result = f"gateway {gateway}"
            places = {
                "documentation": f"{gateway}/docs",
                "event": f"{gateway}/v1/events/{demo.event['identifier']}",
                **commands,
            }
            now.details = [f"{name:<18} {place}" for name, place in places.items()]


async def import_archive(demo: Demo) -> None:
    async with step(f"import of {demo.archive.name}") as now:
        with demo.archive.open("rb") as file:
            job = _body(await demo.http.post("/v1/imports", files={"file": (demo.archive.name, file)}))
        job = await _finished(demo, f"/v1/imports/{job['id']}")
        demo.event = await demo.get(f"/v1/events/{job['event_id']}")
        if demo.event["state"] != "published":
            demo.event = await demo.post(f"/v1/events/{job['event_id']}/publish")
        counts = job["counts"]
        now.result = f"“{demo.event['name']}” in {demo.event['timezone']}, " + ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in counts.items()
        )
        for name in ("sessions", "speakers", "tracks", "microlocations", "sponsors"):
            found = await _count(demo, f"/v1/events/{demo.event['id']}/{name}")
            check(found == counts[name], f"{name}: {counts[name]} imported, but {found} listed")
        repairs = job["repairs"]
        now.details = [f"{item['member']}: {item['message']}" for item in repairs[:5]]
        if len(repairs) > 5:
            now.details.append(f"… and {len(repairs) - 5} more repairs")


async def show_first_day(demo: Demo) -> None:
    for zone in (demo.event["timezone"], next(z for z in OTHER_ZONES if z != demo.event["timezone"])):
        async with step(f"first day in {zone}") as now:
            schedule = await demo.get(f"/v1/events/{demo.event['id']}/schedule", day="first", timezone=zone)
            days = schedule["days"]
            if not days:
                now.result = "nothing is scheduled"
                continue
            sessions = days[0]["sessions"]
            now.result = f"{days[0]['date']}, {len(sessions)} sessions"
            instants = [datetime.fromisoformat(item["starts_at"]) for item in sessions]
            check(instants == sorted(instants), "the schedule must be sorted by time")
            check(
                all(item["starts_at"].startswith(days[0]["date"]) for item in sessions),
                "each session must begin on the day that lists it",
            )
            for item in sessions[:6]:
                room = (item["microlocation"] or {}).get("name", "no room")
                now.details.append(
                    f"{item['starts_at'][11:16]} {item['starts_at'][19:]}  {item['title'][:60]}  [{room}]"
                )
            if len(sessions) > 6:
                now.details.append(f"… and {len(sessions) - 6} more")


async def sell_tickets(demo: Demo) -> None:
    ends_at = datetime.fromisoformat(demo.event["ends_at"])
    async with step("three tickets") as now:
        event_id = demo.event["id"]
        if ends_at < datetime.now(UTC) + timedelta(days=2):
            # Sales must end before the event does, and most archives hold past conferences.
            event_id = await _copy_in_the_future(demo)
        await _tickets_knows(demo, event_id)
        today = datetime.now(UTC).replace(microsecond=0)

        async def ticket(name: str, opens: int, closes: int) -> Any:
            return await demo.post(
                f"/v1/events/{event_id}/tickets",
                name=name,
                type="free",
                quantity=100,
                sales_starts_at=(today + timedelta(hours=opens)).isoformat(),
                sales_ends_at=(today + timedelta(hours=closes)).isoformat(),
            )

        past = await ticket("Early bird", -48, -24)
        regular = await ticket("Regular", -1, 24)
        late = await ticket("Last minute", 24, 36)
        states = {item["name"]: item["sales"] for item in (past, regular, late)}
        check(states == {"Early bird": "past", "Regular": "open", "Last minute": "upcoming"}, f"states: {states}")
        now.result = ", ".join(f"{name} {state}" for name, state in states.items())
    async with step("move one up, list what is on sale now") as now:
        _body(await demo.http.patch(f"/v1/tickets/{regular['id']}", json={"position": past["position"]}))
        listed = {
            sales: [
                item["name"] for item in (await demo.get(f"/v1/events/{event_id}/tickets", **sales_filter))["items"]
            ]
            for sales, sales_filter in (("all", {}), ("open", {"sales": "open"}))
        }
        check(listed["all"] == ["Regular", "Early bird", "Last minute"], f"sequence: {listed['all']}")
        check(listed["open"] == ["Regular"], f"on sale: {listed['open']}")
        now.result = f"on sale {', '.join(listed['open'])}; all in sequence {', '.join(listed['all'])}"


async def _copy_in_the_future(demo: Demo) -> str:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=60)
    copy = await demo.post(
        "/v1/events",
        name=f"{demo.event['name']}, next edition",
        timezone=demo.event["timezone"],
        starts_at=start.isoformat(),
        ends_at=(start + timedelta(days=2)).isoformat(),
    )
    await demo.post(f"/v1/events/{copy['id']}/publish")
    return str(copy["id"])


async def _tickets_knows(demo: Demo, event_id: str) -> None:
    """Wait until the tickets service has received the message about the event."""
    async with asyncio.timeout(30):
        path = f"/v1/events/{event_id}/tickets"
        while (await demo.http.get(path)).status_code == 404:  # noqa: ASYNC110 - it changes in another process
            await asyncio.sleep(0.05)


async def shrink_picture(demo: Demo) -> None:
    async with step("convert a PNG with transparency to JPEG") as now:
        png = _picture()
        image = _body(await demo.http.post("/v1/images", files={"file": ("logo.png", png)}, data={"kind": "event"}))
        async with asyncio.timeout(PATIENCE):
            while image["state"] in ("received", "processing"):
                await asyncio.sleep(0.1)
                image = await demo.get(f"/v1/images/{image['id']}")
        check(image["state"] == "ready", f"the image is {image['state']}: {image.get('error')}")
        check(len(image["variants"]) == 3, "there must be three variants")
        for variant in image["variants"]:
            fetched = await demo.http.get(variant["url"])
            check(fetched.headers.get("content-type") == "image/jpeg", "a variant must be a JPEG")
            with Image.open(io.BytesIO(fetched.content)) as opened:
                check(opened.format == "JPEG" and opened.size == (variant["width"], variant["height"]), "size")
                corner = opened.convert("L").tobytes()[0]
            check(corner >= 250, "transparent areas must be white, within the rounding of JPEG")
            saved = 100 - 100 * variant["size"] / len(png)
            now.details.append(
                f"{variant['name']:<10} {variant['width']}×{variant['height']}  "
                f"{variant['size']:>7,} bytes, {saved:.0f} % saved"
            )
        now.result = f"{len(png):,} bytes in, three variants out"


def _picture() -> bytes:
    size = (1600, 700)
    image = Image.effect_noise(size, 40).convert("RGBA")
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((40, 40, size[0] - 40, size[1] - 40), 120, fill=255)
    image.putalpha(mask)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


async def export_event(demo: Demo) -> None:
    async with step("export") as now:
        job = await demo.post(f"/v1/events/{demo.event['id']}/exports")
        job = await _finished(demo, f"/v1/exports/{job['id']}")
        now.result = f"{job['size']:,} bytes"
    async with step("download through the signed link") as now:
        async with httpx.AsyncClient(timeout=60) as anonymous:  # the link must work without a token
            content = (await anonymous.get(job["download_url"])).content
            check(hashlib.sha256(content).hexdigest() == job["sha256"], "the checksum must equal the announced one")
            forged = await anonymous.get(
                job["download_url"][:-1] + ("0" if job["download_url"][-1] != "0" else "1")
            )
            check(forged.status_code in (403, 404), f"a forged link got {forged.status_code}")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check(archive.testzip() is None, "every member must be intact")
            names = archive.namelist()
            for name, endpoint in (("sessions", "sessions"), ("speakers", "speakers")):
                exported = len(json.loads(archive.read(name)))
                expected = await _count(demo, f"/v1/events/{demo.event['id']}/{endpoint}")
                check(exported == expected, f"{name}: {expected} stored, but {exported} exported")
            details = [
                f"{name:<16} {len(json.loads(archive.read(name))):>5} records"
                for name in names
                if "/" not in name and name not in ("event", "meta", "manifest")
            ]
        pictures = [name for name in names if name.startswith("images/")]
        now.result = f"{len(names)} members, checksum and every member checked"
        now.details = [*details, f"{'images':<16} {len(pictures):>5} files"]


async def _finished(demo: Demo, path: str) -> Any:
    """Follow a job, print its progress, and return it when it is done."""
    shown = ""
    async with asyncio.timeout(PATIENCE):
        while True:
            job = await demo.get(path)
            if job["state"] == "failed":
                raise CheckFailed(f"{path} failed: {json.dumps(job['error'])}")
            if job["state"] == "done":
                return job
            line = f"  … {job['step'] or job['state']} {job['done']}/{job['total']}"
            if line != shown:
                print(line, flush=True)
                shown = line
            await asyncio.sleep(0.3)


async def _count(demo: Demo, path: str) -> int:
    count, cursor = 0, None
    while True:
        page = await demo.get(path, limit=200, **({"cursor": cursor} if cursor else {}))
        count += len(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            return count
