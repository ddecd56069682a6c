"""Bodies of the internal calls that import and export an event whole."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from events.fields import Line
from shared.contracts.programme import Programme
from shared.texts import storable_json


class ProgrammeImport(BaseModel):
    """``import_id`` makes it safe to repeat: the second time nothing is stored and the answer is the same."""

    model_config = ConfigDict(extra="forbid")

    import_id: UUID
    organizer: Line = Field(min_length=1)
    programme: Programme

    @field_validator("programme", mode="before")
    @classmethod
    def _can_be_stored(cls, value: Any) -> Any:
        return storable_json(value)


class ProgrammeRepair(BaseModel):
    """What could not be imported as it was. ``record`` is a key within the member."""

    member: str
    record: str | None
    field: str | None
    message: str


class ProgrammeImported(BaseModel):
    event_id: UUID
    identifier: str
    counts: dict[str, int]
    repairs: list[ProgrammeRepair]
