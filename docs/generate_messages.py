"""Write the documents of the messages: messages.md for people and asyncapi.json for tools (``make messages-doc``).

Sources are the classes in shared/contracts, the SUBSCRIPTIONS of the services' messengers and the frozen samples
in shared/tests/contracts, whose digests it updates too. ``make messages-check`` fails when a document is outdated.
"""

import hashlib
import inspect
import json
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

import shared.contracts
from shared.contracts.envelope import CONTENT_TYPE, Envelope, Message
from shared.messaging.inbox import Subscription
from shared.messaging.outbox import MAX_PAYLOAD_SIZE
from shared.messaging.topology import EXCHANGE, queue_name

ROOT = Path(__file__).parents[1]
SERVICES = ROOT / "services"
SAMPLES = ROOT / "shared" / "tests" / "contracts"
CALL_SAMPLES = SAMPLES / "calls"
DIGESTS = "SHA256SUMS"

# Descriptions of the fields that all messages have; the others are in the classes.
ORGANIZER_MEANING = "The tenant whose data this is: the `org` claim of its tokens."
ENVELOPE_MEANINGS = {
    "specversion": "Version of CloudEvents.",
    "id": "Id of the message. It stays the same when the message is sent again.",
    "source": "`/rostrum/<service>`: the producer.",
    "type": "What happened; also the routing key. The number at its end is the version of `data`.",
    "subject": "Id of the aggregate that the message is about.",
    "time": "When the message was written to the outbox, in UTC.",
    "datacontenttype": "Content type of `data`.",
    "aggregatetype": "`<service>.<subject>`: the kind of `subject`.",
    "aggregateseq": "The aggregate's version after the change. It increases, with gaps.",
    "traceparent": "W3C trace context of the change. Absent if there was none.",
}


class Incomplete(Exception):
    """Something that the documents need is missing; the message says what to do."""


@dataclass(frozen=True)
class Sample:
    """One envelope as it was shipped. ``name`` is ``<type>/<number>.json``."""

    name: str
    text: str

    @property
    def envelope(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.text)
        return read


@dataclass(frozen=True)
class Consumer:
    service: str
    subscription: Subscription[Any]


@dataclass(frozen=True)
class Contract:
    """One version of a message. ``senders`` are the modules of its service that use the class."""

    message: type[Message]
    senders: Sequence[Path]
    consumers: Sequence[Consumer]
    samples: Sequence[Sample]

    @property
    def type(self) -> str:
        return self.message.message_type

    @property
    def service(self) -> str:
        return self.type.partition(".")[0]


# ------------------------------------------------------------------ sources


def message_classes(modules: Sequence[ModuleType] | None = None) -> list[type[Message]]:
    """Return them in the order of their modules and, within one, of their definition."""
    if modules is None:
        names = sorted(found.name for found in pkgutil.iter_modules(shared.contracts.__path__))
        modules = [import_module(f"shared.contracts.{name}") for name in names]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Message)
        and value.__module__ == module.__name__
        and "message_type" in vars(value)
    ]


def service_names() -> list[str]:
    return sorted(path.parent.name for path in SERVICES.glob("*/src/*/messenger.py"))


def consumers() -> list[Consumer]:
    return [
        Consumer(service, subscription)
        for service in service_names()
        for subscription in import_module(f"{service}.messenger").SUBSCRIPTIONS
    ]


def senders(message: type[Message]) -> list[Path]:
    service = message.message_type.partition(".")[0]
    name = re.compile(rf"\b{message.__name__}\b")
    files = sorted((SERVICES / service / "src").rglob("*.py"))
    return [path for path in files if name.search(path.read_text(encoding="utf-8"))]


def samples(folder: Path = SAMPLES) -> dict[str, list[Sample]]:
    """Return the samples by message type, the oldest first."""
    found: dict[str, list[Sample]] = {}
    for path in sorted(folder.glob("*/*.json"), key=lambda path: (path.parent.name, path.stem.zfill(9))):
        name = f"{path.parent.name}/{path.name}"
        found.setdefault(path.parent.name, []).append(Sample(name, path.read_text(encoding="utf-8")))
    return found


def contracts(classes: Sequence[type[Message]], found: Mapping[str, Sequence[Sample]]) -> list[Contract]:
    """Raise ``Incomplete`` unless every class has a docstring and a sample, and every sample a class."""
    known = {message.message_type for message in classes}
    for message_type in found:
        if message_type not in known:
            raise Incomplete(
                f"No class reads the samples of {message_type}. Restore it; or, if no service subscribes to this "
                f"version any more, remove its folder in {_shown(SAMPLES)} and its lines in {DIGESTS}."
            )
    subscribed = consumers()
    made = []
    for message in classes:
        name = message.message_type
        if not message.__doc__:
            raise Incomplete(f"{message.__name__} has no docstring: say what happened when it is sent.")
        if not found.get(name):
            raise Incomplete(f"{message.__name__} has no sample: write {_shown(SAMPLES / name / '1.json')}")
        consuming = [consumer for consumer in subscribed if consumer.subscription.message is message]
        made.append(Contract(message, senders(message), consuming, found[name]))
    return made


def digests(folder: Path = SAMPLES) -> str:
    """Return the SHA-256 of all samples, as ``sha256sum`` writes them.

    Raise ``Incomplete`` if a listed sample was changed or removed.
    """
    file = folder / DIGESTS
    listed = dict(line.split("  ")[::-1] for line in file.read_text().splitlines()) if file.exists() else {}
    present = {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*/*.json")
    }
    for name, digest in listed.items():
        if name not in present:
            raise Incomplete(
                f"The frozen sample {name} is missing. Restore it; or, if no service subscribes to this version "
                f"any more, delete its line in {DIGESTS} too."
            )
        if present[name] != digest:
            raise Incomplete(
                f"The frozen sample {name} was edited. Undo that, and add a sample with the next number. Only one "
                f"that was never merged may be frozen again: delete its line in {DIGESTS}."
            )
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(present.items()))


# ------------------------------------------------------------------ schemas


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas(classes: Sequence[type[BaseModel]], place: str) -> dict[str, Any]:
    _, found = models_json_schema(
        [(each, "validation") for each in classes], ref_template=place + "{model}", schema_generator=_Untitled
    )
    schemas: dict[str, Any] = found["$defs"]
    for schema in _objects(schemas):
        if isinstance(schema.get("description"), str):
            schema["description"] = _markdown(schema["description"])
    for schema in schemas.values():
        if "organizer" in schema.get("properties", {}):
            schema["properties"]["organizer"].setdefault("description", ORGANIZER_MEANING)
    return schemas


def _envelope() -> dict[str, Any]:
    schema: dict[str, Any] = _schemas([Envelope], "")["Envelope"]
    for name, field in schema["properties"].items():
        field["description"] = ENVELOPE_MEANINGS[name]
    # Producers write these fields even if they have defaults.
    schema["required"] = [name for name, field in Envelope.model_fields.items() if field.default is not None]
    return schema


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the value and all JSON objects in it."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _markdown(text: str) -> str:
    return inspect.cleandoc(text).replace("``", "`")


# ------------------------------------------------------------------ AsyncAPI


def asyncapi(found: Sequence[Contract]) -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rostrum's messages",
            "version": project["version"],
            "description": "Messages between the services through RabbitMQ. Each operation belongs to one service, "
            "named by its tag. Delivery is at least once. Generated by `make messages-doc`; messages.md beside "
            "this file has the same for people, and the guarantees.",
            "license": {"name": project["license"]},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "rabbitmq": {
                "host": "{address}",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "RabbitMQ 3.10 or newer.",
                "variables": {
                    "address": {"default": "127.0.0.1:5672", "description": "Host and port of `RABBITMQ_URL`."}
                },
            }
        },
        "channels": {contract.type: _channel(contract) for contract in found},
        "operations": {name: operation for contract in found for name, operation in _operations(contract)},
        "components": {
            "messages": {contract.type: _message(contract) for contract in found},
            "schemas": {
                "Envelope": _envelope(),
                **_schemas([contract.message for contract in found], "#/components/schemas/"),
            },
        },
    }


def _channel(contract: Contract) -> dict[str, Any]:
    return {
        "address": contract.type,
        "messages": {contract.message.__name__: {"$ref": f"#/components/messages/{contract.type}"}},
        "servers": [{"$ref": "#/servers/rabbitmq"}],
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": EXCHANGE, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _operations(contract: Contract) -> Iterator[tuple[str, dict[str, Any]]]:
    channel = f"#/channels/{contract.type}"
    about = {
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{contract.message.__name__}"}],
    }
    yield (
        f"{contract.service}.send.{contract.type}",
        {
            "action": "send",
            "summary": _meaning(contract),
            "tags": [{"name": contract.service}],
            **about,
            "bindings": {"amqp": {"deliveryMode": 2, "timestamp": True, "bindingVersion": "0.3.0"}},
        },
    )
    for consumer in contract.consumers:
        yield (
            f"{consumer.service}.receive.{contract.type}",
            {
                "action": "receive",
                "description": f"From the queue `{queue_name(consumer.service)}` by `{_handler_name(consumer)}`.",
                "tags": [{"name": consumer.service}],
                **about,
                "bindings": {"amqp": {"ack": True, "bindingVersion": "0.3.0"}},
            },
        )


def _message(contract: Contract) -> dict[str, Any]:
    data = {
        "type": "object",
        "required": ["data"],
        "properties": {
            "source": {"const": f"/rostrum/{contract.service}"},
            "type": {"const": contract.type},
            "data": {"$ref": f"#/components/schemas/{contract.message.__name__}"},
        },
    }
    return {
        "name": contract.type,
        "title": contract.message.__name__,
        "summary": _meaning(contract),
        "contentType": CONTENT_TYPE,
        "payload": {"allOf": [{"$ref": "#/components/schemas/Envelope"}, data]},
        "bindings": {"amqp": {"messageType": contract.type, "bindingVersion": "0.3.0"}},
        "examples": [{"name": Path(sample.name).stem, "payload": sample.envelope} for sample in contract.samples],
    }


# ------------------------------------------------------------------ Markdown


def markdown(found: Sequence[Contract]) -> str:
    overview = [
        (
            f"[`{contract.type}`](#{contract.type.replace('.', '')})",
            contract.service,
            ", ".join(dict.fromkeys(consumer.service for consumer in contract.consumers)) or "none",
            _meaning(contract),
        )
        for contract in found
    ]
    parts = [
        "# Messages",
        "<!-- Generated by `make messages-doc` from shared/src/shared/contracts, the services' messengers and "
        "shared/tests/contracts. Do not edit. -->",
        "The messages between the services. [asyncapi.json](asyncapi.json) has the same for tools (AsyncAPI 3.0). "
        "[CONTRIBUTING](../CONTRIBUTING.md#add-a-message) says how to add a message, a field or a version.",
        _table(("Type", "Producer", "Consumers", "Meaning"), overview),
        "## Guarantees",
        """\
[ADR 2](adr/0002-outbox-relay-inbox.md) explains the mechanism.

- **At least once.** A message is written in the transaction that makes it true, and published until RabbitMQ
  confirms it. The same `id` may arrive again; the consumer's inbox turns that into one effect.
- **Published in sequence within one aggregate**, by `aggregateseq`. There is no sequence between aggregates.
- **Old state never replaces newer state.** A failure may let a message overtake another. A subscription that keeps
  the `latest` state drops a message whose `aggregateseq` is lower than one it has handled for the same aggregate:
  it is *stale*, counted and not handled, as the newer one carried the whole state. A subscription that keeps
  `every` fact handles each in the sequence of its arrival; several messengers of a service may handle two facts of
  one aggregate at the same time.
- **A failing handler drops no message.** It is retried with growing delays while the aggregate's later messages
  wait, and ends in the table `dead_letters` of the service, with the reason.
- **Every message that was ever sent can be read.** Fields are added with defaults, and never removed, renamed or
  retyped: that is a new version, sent beside the old one until no service subscribes to it. Consumers ignore fields
  they do not know.""",
        "## Envelope",
        f"""\
The body is [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) structured JSON,
content type `{CONTENT_TYPE}`, persistent. It is published to the topic exchange `{EXCHANGE}` with
the type as its routing key. Each service with subscriptions has one quorum queue, `{queue_name("<service>")}`,
bound to the types it knows. The AMQP properties `message_id`, `type` and `timestamp` repeat `id`, `type` and
`time`. The trace travels in the envelope, not in AMQP headers. `data` is at most
{MAX_PAYLOAD_SIZE // 1024} KiB of JSON: `outbox.add` refuses a larger one.""",
        _fields(_envelope()),
        "The field `data` holds the fields of the message, as follows.",
    ]
    for contract in found:
        parts += _section(contract)
    return "\n\n".join(parts) + "\n"


def _section(contract: Contract) -> Iterator[str]:
    schemas = _schemas([contract.message], "")
    schema = schemas.pop(contract.message.__name__)
    yield f"## {contract.type}"
    yield _markdown(contract.message.__doc__ or "")
    base = contract.message.__base__
    if base is not None and base is not Message and base.__doc__:
        yield _markdown(base.__doc__)
    modules = ", ".join(_link(_module_name(path), path) for path in contract.senders)
    lines = [f"- Produced by **{contract.service}**: {modules or 'not any more'}"]
    lines += [f"- Consumed by **{consumer.service}**: {_handler(consumer)}" for consumer in contract.consumers]
    lines += [f"- Class: {_link(contract.message.__name__, _source(contract.message))}"]
    yield "\n".join(lines)
    yield _fields(schema)
    for name, inner in schemas.items():
        yield f"**{name}**: {inner.get('description', '')}"
        if "properties" in inner:
            yield _fields(inner)
    yield f"```json\n{contract.samples[-1].text.strip()}\n```"


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        if not field.get("description"):
            raise Incomplete(f"{name} of {schema['title']} has no description: add one to its Field.")
        default = field.get("default")
        need = (
            "required"
            if name in required
            else "optional"
            if default is None
            else f"default `{json.dumps(default)}`"
        )
        rows.append((f"`{name}`", _type(field), need, field["description"]))
    return _table(("Field", "Type", "", "Meaning"), rows)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return f"**{schema['$ref']}**"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _meaning(contract: Contract) -> str:
    return _markdown(contract.message.__doc__ or "").partition("\n\n")[0]


def _handler_name(consumer: Consumer) -> str:
    handler = consumer.subscription.handler
    return f"{handler.__module__}.{handler.__qualname__}"


def _handler(consumer: Consumer) -> str:
    link = _link(_handler_name(consumer), _source(consumer.subscription.handler))
    return f"{link}, keeps `{consumer.subscription.keep}`"


def _source(thing: Any) -> Path:
    return Path(inspect.getfile(thing)).resolve()


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(SERVICES).parts[2:]).removesuffix(".py").removesuffix(".__init__")


def _link(text: str, path: Path) -> str:
    return f"[`{text}`](../{_shown(path)})"


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------ command


def documents() -> dict[Path, str]:
    """Return the content of each file."""
    found = contracts(message_classes(), samples())
    return {
        SAMPLES / DIGESTS: digests(),
        CALL_SAMPLES / DIGESTS: digests(CALL_SAMPLES),
        ROOT / "docs" / "messages.md": markdown(found),
        ROOT / "docs" / "asyncapi.json": json.dumps(asyncapi(found), ensure_ascii=False, indent=2) + "\n",
    }


def stale(wanted: Mapping[Path, str]) -> list[Path]:
    return [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main(arguments: Sequence[str]) -> int:
    try:
        wanted = documents()
    except Incomplete as error:
        print(error, file=sys.stderr)
        return 1
    old = stale(wanted)
    if "--check" in arguments:
        for path in old:
            print(f"{_shown(path)} is outdated: run `make messages-doc` and commit it.", file=sys.stderr)
        return 1 if old else 0
    for path in old:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {_shown(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
