"""Messengers die, freeze and race: each message leaves, in its order, and has one effect."""

import asyncio

import pytest

from shared.messaging.relay import BUCKETS, Timings
from tests.drills.drill import Drill, Report
from tests.drills.roles import Part
from tests.drills.stage import LEDGER, MESSENGER
from tests.drills.waiting import within


async def test_a_messenger_that_dies_between_confirm_and_mark_sends_again_and_the_inbox_absorbs_it(
    drill: Drill,
) -> None:
    report = await die_before_mark(drill, LEDGER)
    assert report.findings == []
    assert report.sent_again > 0
    assert report.absorbed >= report.sent_again


@pytest.mark.twin("inbox")
async def test_without_the_inbox_what_is_sent_again_would_have_its_effect_again(drill: Drill) -> None:
    report = await die_before_mark(drill, LEDGER.without("inbox"))
    assert report.sent_again > 0
    assert report.kinds == {"doubled"}


async def die_before_mark(drill: Drill, ledger: Part) -> Report:
    await drill.begin(MESSENGER, ledger)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        await drill.strike(MESSENGER)
        await load.go_on(drill.scale.calm)
    return await drill.report()


async def test_messengers_share_the_work_and_one_that_freezes_loses_its_share_and_harms_nothing_when_it_is_back(
    drill: Drill,
) -> None:
    one, two = MESSENGER, MESSENGER.replica(2)
    await drill.begin(one, two, LEDGER)
    async with drill.load() as load:
        await both_have_half(drill, one, two)
        await load.go_on(drill.scale.calm)
        drill.role(one).freeze()
        await load.go_on(drill.scale.calm)
        await drill.drained()
        drill.role(one).thaw()
        await both_have_half(drill, one, two)
        await load.go_on(drill.scale.calm)
    assert (await drill.report()).findings == []


@pytest.mark.twin("patience")
async def test_without_an_end_to_patience_what_a_frozen_messenger_holds_would_wait_for_it(drill: Drill) -> None:
    one = MESSENGER.with_constants(relay__lock_patience=0)  # for PostgreSQL: never ended
    two = one.replica(2)
    await drill.begin(one, two, LEDGER)
    await both_have_half(drill, one, two)
    drill.role(one).freeze()
    async with drill.load() as load:
        # Enough for some of them to fall to the frozen one.
        await asyncio.gather(*(load.create(f"event {number}") for number in range(20)))
        with pytest.raises(TimeoutError):
            await drill.drained(at_most=2 * drill.scale.haste.get("relay__lock_patience", Timings().lock_patience))
    drill.role(one).thaw()
    assert (await drill.report()).findings == []


@pytest.mark.twin("locks")
async def test_without_locks_messengers_would_send_the_same_and_the_inbox_absorb_it(drill: Drill) -> None:
    messenger = MESSENGER.without("locks")
    await drill.begin(messenger, messenger.replica(2), LEDGER)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
    report = await drill.report()
    assert report.findings == []
    assert report.sent_again > 0
    assert report.absorbed >= report.sent_again


async def both_have_half(drill: Drill, *messengers: Part) -> None:
    async def have_half() -> bool:
        shared = [drill.role(messenger).lines("relay.shared") for messenger in messengers]
        return all(lines and lines[-1]["buckets"] == BUCKETS / 2 for lines in shared)

    await within(30, have_half)
