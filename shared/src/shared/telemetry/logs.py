"""Structured logs: one JSON line per fact on standard output, joined by request, trace and message ids.

Call ``configure_logs`` once per process. Bind ids with ``structlog.contextvars.bound_contextvars``.

One line is written per request, so its price counts: our own lines go straight to the output, and only those of
libraries take the way through the standard library, which costs several times as much.
"""

import json
import logging
import sys
from contextlib import suppress
from typing import Any, BinaryIO, cast

import orjson
import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose event names read ``feature.fact``; ids go into fields, never into the text."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logs(*, service: str, role: str, level: str = "INFO", as_json: bool = True) -> None:
    """Sends structlog and the standard library's loggers, rendered alike, to standard output."""

    # Not sys.stdout: in a worker, dramatiq has put in its place a pipe that takes texts only.
    output = sys.__stdout__
    assert output is not None  # noqa: S101 - every process has one

    def name_process(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        event["role"] = role
        return event

    enrich: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        name_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[Any] = (
        [_exceptions, structlog.processors.JSONRenderer(serializer=_json)]
        if as_json
        else [_console(colors=output.isatty()), _encoded]
    )
    structlog.configure(
        processors=[*enrich, *render],
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, _Output(cast(BinaryIO, output.buffer)))),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=enrich,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render, _decoded],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in (
        "aio_pika",
        "aiormq",
        "botocore",
        "aiobotocore",
        "dramatiq",
        "httpcore",
        "httpx",
        "pika",
        "uvicorn",
    ):
        logging.getLogger(chatty).setLevel("WARNING")


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    # The default, if rich is installed, shows local variables and takes seconds for one traceback.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def configure_test_logs() -> None:
    """Readable lines on whatever standard output is at the moment, so that pytest can capture them."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _console(colors=False),
        ],
        cache_logger_on_first_use=False,
    )


# Without local variables: tokens and addresses with passwords are among them.
_exceptions = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


class _Output:
    """A file whose write errors are ignored, as by the handlers of the standard library.

    A full disk or a closed pipe loses log lines, but does not fail the work that they describe.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        with suppress(OSError, ValueError):
            self._file.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


def _json(event: structlog.typing.EventDict, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, options["default"])
    except TypeError:
        # Large integers, keys that are no text, halves of surrogate pairs: rare, and no reason to lose the line.
        return json.dumps(event, **options).encode()


def _encoded(_: Any, __: str, line: Any) -> bytes:
    return str(line).encode(errors="backslashreplace")


def _decoded(_: Any, __: str, line: Any) -> str:
    return bytes(line).decode()
