import pytest
from pydantic import JsonValue

from shared.texts import storable, storable_json


@pytest.mark.parametrize("text", ["", "plain", "Zürich", "\U0001f600", "a\tb\n"])
def test_text_that_utf8_can_encode_is_kept(text: str) -> None:
    assert storable(text) is text


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "a\udfffb"])
def test_nul_and_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NUL character|surrogate pair"):
        storable(text)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\0", "the value has a NUL"),
        ({"speakers": [{}, {"bio": "a\0"}]}, "speakers.1.bio has a NUL"),
        ({"a": {"b\0": 1}}, "a has a NUL"),
        ({"a": [float("nan")]}, "a.0 is not a finite number"),
        ({"ü": "\ud800"}, r"\? has half of a surrogate pair"),
    ],
)
def test_a_json_value_is_refused_by_its_path(value: JsonValue, path: str) -> None:
    with pytest.raises(ValueError, match=f"^{path}"):
        storable_json(value)


def test_a_json_value_that_can_be_stored_is_kept() -> None:
    value: JsonValue = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert storable_json(value) is value
