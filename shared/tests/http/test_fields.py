import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.http.fields import WallTimeInput
from shared.walltime import MAX_LENGTH, resolve


def test_wall_time_input_is_bounded_text_with_valid_examples() -> None:
    class Request(BaseModel):
        starts_at: WallTimeInput

    schema = Request.model_json_schema()["properties"]["starts_at"]
    assert (schema["type"], schema["maxLength"]) == ("string", MAX_LENGTH)
    for example in schema["examples"]:
        assert resolve(Request(starts_at=example).starts_at, "Europe/Berlin", field="starts_at").zone
    for text in ("", "9" * (MAX_LENGTH + 1)):
        with pytest.raises(ValidationError):
            TypeAdapter[str](WallTimeInput).validate_python(text)
