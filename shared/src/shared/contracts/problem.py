"""The body of a refusal or failure, which callers of a service read."""

from pydantic import BaseModel, ConfigDict, Field


class ProblemField(BaseModel):
    """One error of the input. More keys (such as ``alternatives``) may follow."""

    model_config = ConfigDict(extra="allow")

    field: str = Field(description="Dotted path of the field, or the archive member, that is wrong.")
    message: str


class ProblemDocument(BaseModel):
    """The body of every 4xx and 5xx answer, as ``application/problem+json``."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable URN of the problem type.", examples=["urn:rostrum:problem:not-found"])
    title: str
    status: int
    code: str = Field(description="The last part of `type`, for programs to switch on.")
    detail: str = Field(description="What is wrong with this request, and the way out.")
    errors: list[ProblemField] = Field(default_factory=list)
    request_id: str | None = None
