"""Every role is replaced while there is load, as a roll-out does it: no request fails, and nothing is lost.

Short, these are the roles of events, and the ledger. At full length they are those of all services, under all that
visitors do.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local.cluster import SERVICES
from deploy.local.ports import free_port
from testkit.plugin import TokenFactory
from tests.drills.drill import Drill
from tests.drills.front import Front
from tests.drills.roles import Part
from tests.drills.scale import FULL, scale_of_this_run
from tests.drills.services import OTHER_ROLES, prepare_other_services
from tests.drills.stage import API, LEDGER, MESSENGER, Stage
from tests.drills.visitors import Visitors
from tests.drills.waiting import within

# The gateway asks every second who is ready.
DRAIN_DELAY = 3.0
VISITS = 50.0  # a second, beside as many writes
EVENTS_AND_LEDGER = (API, API.replica(2), MESSENGER, LEDGER)

RecordRow = Callable[[str, object], None]


class RollOut:
    """The roles that run, behind their front."""

    def __init__(self, drill: Drill, front: Front) -> None:
        self._stage = drill.stage
        self._front = front
        self._numbers = count(100)
        self._spare_port: dict[str, int] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        ports: dict[str, list[int]] = {}
        for part, role in self._stage.roles.items():
            if _is_api(part):
                ports.setdefault(_service(part), []).append(_port(role.url))
        self._spare_port = {service: free_port() for service in ports}
        for service, its_ports in ports.items():
            its_ports.append(self._spare_port[service])
        async with self._front.open(ports):
            yield

    async def replace(self, parts: Sequence[Part]) -> list[Part]:
        """One after another, as a Deployment does that may have one pod more and none less; the new ones."""
        fresh = [part.replica(next(self._numbers)) for part in parts]
        for part, next_one in zip(parts, fresh, strict=True):
            port = self._spare_port.pop(_service(part)) if _is_api(part) else None
            await self._stage.start(next_one, port=port)
            old = self._stage.roles[part]
            assert await self._stage.stop(part) == 0, old.log_tail()
            del self._stage.roles[part]
            if _is_api(part):
                self._spare_port[_service(part)] = _port(old.url)
        return fresh


def _is_api(part: Part) -> bool:
    return part.module.endswith(".api")


def _service(part: Part) -> str:
    return part.module.partition(".")[0]


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@pytest.fixture
async def front(drill: Drill, tmp_path: Path) -> AsyncIterator[Front]:
    """Roles that are started while it is there know of it."""
    front = Front(tmp_path)
    await drill.stage.cast()
    drill.stage.settings = front.settings | {"DRAIN_DELAY": str(DRAIN_DELAY)}
    yield front
    drill.stage.settings = {}
    await drill.stage.cast()


async def test_replacing_every_role_fails_no_request_and_loses_nothing(drill: Drill, front: Front) -> None:
    await drill.begin(*EVENTS_AND_LEDGER)
    roll_out = RollOut(drill, front)
    async with roll_out.open():
        async with drill.load(url=front.url) as load:
            await load.go_on(drill.scale.calm)
            await roll_out.replace(EVENTS_AND_LEDGER)
            await load.go_on(drill.scale.calm)
        report = await drill.report()
    assert report.findings == []
    assert (report.failures, report.accepted_share) == (0, 1)


@pytest.mark.twin("drain")
async def test_without_the_drain_delay_requests_would_fail_though_nothing_is_lost(
    drill: Drill, front: Front
) -> None:
    drill.stage.settings["DRAIN_DELAY"] = "0"
    await drill.begin(*EVENTS_AND_LEDGER)
    roll_out = RollOut(drill, front)
    async with roll_out.open():
        async with drill.load(url=front.url) as load:
            await load.go_on(drill.scale.calm)
            apis = [API]
            # The gateway may happen to ask in the very moment; not every time.
            for _ in range(6):
                apis = await roll_out.replace(apis)
                await load.go_on(0.5)
                if drill.book.failures():
                    break
        report = await drill.report()
    assert report.failures > 0
    assert report.findings == []


@pytest.mark.skipif(scale_of_this_run() is not FULL, reason="two minutes; `make drill` has it")
async def test_replacing_every_role_of_all_services_fails_no_request_message_or_job(
    drill: Drill, front: Front, tokens: TokenFactory, tmp_path: Path, record_property: RecordRow
) -> None:
    stage = drill.stage
    await prepare_other_services(stage, tokens, tmp_path)
    more_apis = [part.replica(2) for part in OTHER_ROLES if _is_api(part)]
    parts = (*EVENTS_AND_LEDGER, *OTHER_ROLES, *more_apis)
    await drill.begin(*parts)
    roll_out = RollOut(drill, front)
    async with roll_out.open():
        begun_at, written = time.monotonic(), len(drill.book.writes)
        async with (
            drill.load(url=front.url) as load,
            Visitors(front.url, stage.credentials, rate=VISITS) as visitors,
        ):
            await load.go_on(drill.scale.calm)
            await roll_out.replace(parts)
            await load.go_on(drill.scale.calm)
        rate = (len(drill.book.writes) - written + visitors.answered) / (time.monotonic() - begun_at)
        images, exports = await visitors.until_jobs_are_done()
        report = await drill.report()
        assert report.findings == []
        assert (report.failures, report.accepted_share) == (0, 1)
        assert visitors.failures == []
        for service in SERVICES:
            await within(20, partial(is_all_sent, stage, service))
            assert await stage.count_dead(service) == 0
    assert min(images, exports) > 0
    row = {"replaced": len(parts), "requests/s": round(rate), "visits": visitors.answered}
    row |= {"images": images, "exports": exports}
    record_property("drill", report.row() | {name: str(number) for name, number in row.items()})


async def is_all_sent(stage: Stage, service: str) -> bool:
    return not await stage.count_unpublished(service)
