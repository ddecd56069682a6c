"""The payload's base class of all messages on the bus, and the CloudEvents envelope.

The body of an AMQP message is CloudEvents 1.0 structured JSON. A producer may add payload fields with defaults;
anything else is a new class with the next version, sent beside the old one while a queue is bound to the old one.
"""

from datetime import datetime
from typing import ClassVar, Generic, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

CONTENT_TYPE = "application/cloudevents+json"


class Message(BaseModel):
    """The data of one type of message. Readers ignore unknown fields.

    ``message_type`` is the CloudEvents type and the routing key: ``<service>.<subject>.<past verb>.v<N>``.
    ``organizer`` is the tenant, from the producer's own row.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    message_type: ClassVar[str]

    organizer: str


class Envelope(BaseModel):
    """The CloudEvents attributes of a message, without its data: what a consumer reads before it chooses a handler.

    ``subject`` is the id of the aggregate that changed, and ``aggregateseq`` its version after the change.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: UUID
    source: str
    type: str
    subject: UUID
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    aggregatetype: str
    aggregateseq: int
    traceparent: str | None = None


M = TypeVar("M", bound=Message)


class MessageEnvelope(Envelope, Generic[M]):
    data: M


def encode(
    *,
    message_id: str,
    source: str,
    message_type: str,
    subject: str,
    time: datetime,
    aggregate_type: str,
    aggregate_seq: int,
    traceparent: str | None,
    data: str,
) -> bytes:
    """Return the body of a ``MessageEnvelope`` whose data is JSON text already."""
    envelope = {
        "specversion": "1.0",
        "id": message_id,
        "source": source,
        "type": message_type,
        "subject": subject,
        "time": time,
        "datacontenttype": "application/json",
        "aggregatetype": aggregate_type,
        "aggregateseq": aggregate_seq,
    }
    if traceparent:
        envelope["traceparent"] = traceparent
    return orjson.dumps({**envelope, "data": orjson.Fragment(data)})
