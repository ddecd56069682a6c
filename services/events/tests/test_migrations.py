from testkit.plugin import Databases, ServiceUnderTest, check_migrations


async def test_migrations_lead_from_nothing_to_the_models_and_one_step_back(
    service: ServiceUnderTest, databases: Databases
) -> None:
    await check_migrations(service, databases)
