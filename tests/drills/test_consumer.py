"""Consumers die, come and go: each message has one effect, in the order of its aggregate, and none is given up."""

import pytest

from tests.drills.drill import Drill, Report
from tests.drills.roles import Part
from tests.drills.stage import LEDGER, MESSENGER


async def test_a_consumer_that_dies_between_commit_and_ack_gets_the_message_again_and_absorbs_it(
    drill: Drill,
) -> None:
    report = await die_before_ack(drill, LEDGER)
    assert report.findings == []
    assert report.redelivered > 0
    assert report.absorbed > 0


@pytest.mark.twin("inbox")
async def test_without_the_inbox_it_would_handle_the_message_again(drill: Drill) -> None:
    report = await die_before_ack(drill, LEDGER.without("inbox"))
    assert report.redelivered > 0
    assert report.kinds == {"doubled"}


async def die_before_ack(drill: Drill, ledger: Part) -> Report:
    await drill.begin(MESSENGER, ledger)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        await drill.strike(ledger)
        await load.go_on(drill.scale.calm)
    return await drill.report()


async def test_a_consumer_that_is_stopped_and_started_again_and_again_gives_nothing_up(drill: Drill) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        for _ in range(drill.scale.restarts):
            await load.go_on(drill.scale.calm)
            assert await drill.stage.stop(LEDGER) == 0
            await drill.stage.start(LEDGER)
        await drill.drained()
    assert (await drill.report()).findings == []


async def test_messages_of_one_aggregate_are_handled_in_turn_even_if_one_is_slow(drill: Drill) -> None:
    assert (await dawdle(drill, LEDGER)).findings == []


@pytest.mark.twin("turns")
async def test_without_turns_the_next_message_would_overtake_a_slow_one_which_is_dropped_as_stale(
    drill: Drill,
) -> None:
    report = await dawdle(drill, LEDGER.without("turns"))
    assert report.kinds == {"lost"}
    assert report.stale == len(report.findings)


async def dawdle(drill: Drill, ledger: Part) -> Report:
    """An event changes again and again, and all of it comes to the ledger at once, with nothing else in between."""
    await drill.begin(MESSENGER, ledger)
    drill.role(ledger).slow_down()
    drill.role(ledger).freeze()
    async with drill.load(rate=0) as load:
        event = await load.create("one that changes")
        for number in range(10):
            await load.change(event, f"change {number}")
        await drill.all_sent()
        drill.role(ledger).thaw()
    return await drill.report()
