from testkit.plugin import Databases, ServiceUnderTest, check_migrations


async def test_migrations_create_the_schema_of_the_models_and_can_be_reverted_by_one(
    service: ServiceUnderTest, databases: Databases
) -> None:
    await check_migrations(service, databases)
