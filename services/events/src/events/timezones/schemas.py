from pydantic import BaseModel, Field


class TimezoneRead(BaseModel):
    name: str = Field(examples=["Europe/Berlin"])
    utc_offset: str = Field(description="The current offset.", examples=["+02:00"])


class TimezoneList(BaseModel):
    items: list[TimezoneRead]
    tzdata_version: str = Field(description="Release of the tz database.", examples=["2026f"])
