"""Messages come more than once, in a wrong order, or can't be handled at all."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from tests.drills.drill import Drill, Report
from tests.drills.ledger import POISON
from tests.drills.roles import Part
from tests.drills.stage import LEDGER, MESSENGER, Seen

WINDOW = 50


async def test_a_message_that_is_delivered_three_times_has_one_effect(drill: Drill) -> None:
    report = await deliver_three_times(drill, LEDGER)
    assert report.findings == []
    assert report.absorbed >= 2 * report.messages


@pytest.mark.twin("inbox")
async def test_without_the_inbox_it_would_have_more_than_one(drill: Drill) -> None:
    assert (await deliver_three_times(drill, LEDGER.without("inbox"))).kinds == {"doubled"}


async def deliver_three_times(drill: Drill, ledger: Part) -> Report:
    """Deliver every message by the messenger, then two more times concurrently, while writes go on."""
    await drill.begin(MESSENGER, ledger)

    async def deliver_again() -> None:
        seen = await drill.take_from_bus()
        await asyncio.gather(*(drill.stage.deliver(seen) for _ in range(2)))

    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        await deliver_again()
        await load.go_on(drill.scale.calm)
    await drill.drained()
    await deliver_again()
    return await drill.report()


async def test_in_a_wrong_order_no_message_takes_effect_after_a_younger_one(drill: Drill) -> None:
    report = await shuffle(drill, LEDGER)
    assert report.findings == []
    assert report.stale > 0


@pytest.mark.twin("positions")
async def test_without_positions_older_messages_would_take_effect_after_younger_ones(drill: Drill) -> None:
    assert "out_of_order" in (await shuffle(drill, LEDGER.without("positions"))).kinds


async def shuffle(drill: Drill, ledger: Part) -> Report:
    """While the consumer is away, what waits for it is put into another order."""
    await drill.begin(MESSENGER, ledger)
    await drill.stage.stop(ledger)
    async with drill.load() as load:
        await load.go_on(2 * drill.scale.calm)
    await drill.all_sent()
    await drill.stage.purge_queue()
    await drill.stage.deliver(in_other_order(await drill.take_from_bus()))
    await drill.stage.start(ledger)
    return await drill.report(may_skip=True)


def in_other_order(seen: Sequence[Seen]) -> list[Seen]:
    """Each within ``WINDOW`` of its place, and always in the same way."""
    chance = random.Random(7)
    return [seen[place] for place in sorted(range(len(seen)), key=lambda place: place + chance.uniform(0, WINDOW))]


async def test_a_message_that_can_not_be_handled_ends_among_the_dead_letters_and_holds_up_no_other(
    drill: Drill,
) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        await load.create(f"{POISON} at birth")
        event = await load.create("healthy")
        await load.change(event, f"{POISON} later")
        await load.change(event, "cured")
        await load.go_on(drill.scale.calm)
    report = await drill.report(poison=POISON)
    assert report.findings == []
