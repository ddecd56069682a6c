import pytest

from shared.http.etags import PreconditionFailed, check_if_match, etag_of, is_not_modified


def test_the_tag_of_a_version_is_strong_and_quoted() -> None:
    assert etag_of(7) == '"7"'
    assert etag_of("2f-7") == '"2f-7"'


@pytest.mark.parametrize("version", ["", 'a"b', "a b", "ä", "a\r\nSet-Cookie: x"])
def test_a_version_that_a_tag_cannot_hold_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="ETag"):
        etag_of(version)


@pytest.mark.parametrize("header", [None, "*", " * ", '"7"', '"6", "7"', '"a,b" ,, "7"', 'W/"6","7"', '"7",'])
def test_if_match_with_the_current_version_passes(header: str | None) -> None:
    check_if_match(header, '"7"')


@pytest.mark.parametrize("header", ['"6"', 'W/"7"', "7", "", '"7', '"7" "8"', '"*"', '"x", 7', '"77"', '"6,"7"'])
def test_if_match_with_another_version_is_a_412_with_the_current_tag(header: str) -> None:
    with pytest.raises(PreconditionFailed) as refused:
        check_if_match(header, '"7"')
    assert refused.value.status == 412
    assert refused.value.headers == {"ETag": '"7"'}


def test_a_long_malformed_header_is_refused_quickly() -> None:
    with pytest.raises(PreconditionFailed):
        check_if_match('"7" ,' * 10_000 + "x", '"7"')
    with pytest.raises(PreconditionFailed):
        check_if_match(", " * 20_000 + "x", '"7"')
    with pytest.raises(PreconditionFailed):
        check_if_match('"7"' + " \t" * 20_000 + "x", '"7"')


@pytest.mark.parametrize(
    ("header", "fresh"),
    [
        (None, False),
        ('"7"', True),
        ('W/"7"', True),
        ("*", True),
        ('"5", W/"7"', True),
        ('"6"', False),
        ("7", False),
    ],
)
def test_if_none_match_with_the_current_version_is_a_304(header: str | None, fresh: bool) -> None:
    assert is_not_modified(header, '"7"') is fresh
