import pytest

from exports.archive.zones import repaired_zone


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("Hawaii-Aleutian", "Pacific/Honolulu"),
        ("hawaii-aleutian ", "Pacific/Honolulu"),
        ("US / Eastern", "US/Eastern"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("Berlin", None),
        ("", None),
    ],
)
def test_zone_names_of_archives_are_repaired_where_the_meaning_is_clear(name: str, zone: str | None) -> None:
    assert repaired_zone(name) == zone
