"""The broker stops, dies or falls silent: the api goes on, and what was written arrives once it is back."""

from tests.drills.drill import Drill
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
    assert report.answers.keys() == {"accepted"}  # the api needs no broker
