"""PostgreSQL restarts or dies under load: the api reports it, and loses or duplicates nothing that it accepted."""

from tests.drills.drill import Drill, Report
from tests.drills.stage import LEDGER, MESSENGER


async def test_a_database_that_restarts_loses_nothing_and_all_find_back_to_it(drill: Drill) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        await load.go_on(drill.scale.calm)
        await drill.database.stop()
        await load.go_on(drill.scale.outage)
        await drill.database.start()
        await drill.drained()
        await load.go_on(drill.scale.calm)
    check(await drill.report())


async def test_a_database_that_is_killed_again_and_again_loses_nothing_that_was_accepted(drill: Drill) -> None:
    await drill.begin(MESSENGER, LEDGER)
    async with drill.load() as load:
        for _ in range(drill.scale.restarts):
            await load.go_on(drill.scale.calm)
            await drill.database.kill()
            await drill.database.start()
            await drill.drained()
        await load.go_on(drill.scale.calm)
    check(await drill.report())


def check(report: Report) -> None:
    assert report.findings == []
    assert report.answers["accepted"]
    # 503 says "not now", where a 500 would say "a fault of ours".
    assert report.statuses.keys() <= {200, 201, 412, 503}
