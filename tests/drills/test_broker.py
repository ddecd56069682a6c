"""The broker stops, dies or falls silent: the api goes on, and what was written arrives once it is back."""

import pytest

from tests.drills.drill import Drill, Report
from tests.drills.roles import Part
from tests.drills.stage import LEDGER, MESSENGER


async def test_what_is_written_while_the_broker_is_stopped_arrives_when_it_is_back(drill: Drill) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        await drill.broker.stop()
        await load.go_on(drill.scale.outage)
        await drill.broker.start()
        await drill.drained()
        await load.go_on(drill.scale.calm)
    report = await drill.report()
    assert report.findings == []
    check_api(report)


async def test_a_broker_that_is_killed_again_and_again_loses_nothing(drill: Drill) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        for _ in range(drill.scale.restarts):
            await load.go_on(drill.scale.calm)
            await drill.broker.kill()
            await drill.broker.start()
            await drill.drained()
    report = await drill.report()
    assert report.findings == []
    check_api(report)


async def test_a_silent_broker_holds_nobody_up_for_longer_than_it_is_silent(drill: Drill) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        drill.wire.silence()
        await load.go_on(drill.scale.outage)
        drill.wire.resume()
        await drill.drained()
        await load.go_on(drill.scale.calm)
    report = await drill.report()
    assert report.findings == []
    check_api(report)


async def test_what_a_broken_connection_swallowed_is_sent_again(drill: Drill) -> None:
    assert await swallow(drill, MESSENGER) == set()


def check_api(report: Report) -> None:
    """The api needs no broker. On a machine that is busy with all of this an answer may be late, and so unknown."""
    assert report.accepted_share >= 0.98


@pytest.mark.twin("confirms")
async def test_without_confirms_it_would_be_lost(drill: Drill) -> None:
    assert "lost" in await swallow(drill, MESSENGER.without("confirms"))


async def swallow(drill: Drill, messenger: Part) -> set[str]:
    """The relay's connection takes what is written to it, and breaks before the broker has got it."""
    await drill.begin(messenger, LEDGER)
    async with drill.load() as load:
        drill.wire.silence()
        await load.go_on(drill.scale.calm)
        drill.wire.cut()
        drill.wire.resume()
        await load.go_on(drill.scale.calm)
    return set((await drill.report()).kinds)
