"""Structured logs: one JSON line per entry on standard output, joined by request, trace and message ids.

Call ``configure_logs`` once per process. Bind ids with ``structlog.contextvars.bound_contextvars``. Our own entries
bypass the standard library's loggers, which are several times slower; those of libraries go through them.
"""

import json
import logging
import sys
from contextlib import suppress
from typing import Any, BinaryIO, TextIO, cast

import orjson
import structlog

from shared.settings import Settings


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger. Name its events ``feature.fact`` and put ids into fields, never into the text."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logs(settings: Settings, role: str, output: TextIO | None = None) -> None:
    """Send structlog and the standard library's loggers, rendered alike, to ``output``, else to standard output."""

    # Not sys.stdout, which dramatiq replaces in a worker by a pipe for text.
    output = output or sys.__stdout__
    assert output is not None  # noqa: S101 - every process has one

    def name_process(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = settings.service
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
        if settings.log_format == "json"
        else [_console(colors=output.isatty()), _encoded]
    )
    structlog.configure(
        processors=[*enrich, *render],
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, _Output(output.buffer))),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
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
    root.setLevel(settings.log_level)
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
    # The default uses rich, if installed, which prints local variables and takes seconds for a traceback.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def configure_test_logs() -> None:
    """Print readable lines to the current standard output, so that pytest can capture them."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _console(colors=False),
        ],
        cache_logger_on_first_use=False,
    )


# Without local variables, because tokens and URLs with passwords are among them.
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
        # Large integers, keys that are not text, lone surrogates: rare, and no reason to lose the line.
        return json.dumps(event, **options).encode()


def _encoded(_: Any, __: str, line: Any) -> bytes:
    return str(line).encode(errors="backslashreplace")


def _decoded(_: Any, __: str, line: Any) -> str:
    return bytes(line).decode()
