"""Structured logs: one JSON line per fact on standard output, joined by request, trace and message ids.

Call ``configure_logs`` once per process. Bind ids with ``structlog.contextvars.bound_contextvars``.
"""

import logging
import sys
from typing import Any

import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose event names read ``feature.fact``; ids go into fields, never into the text."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logs(*, service: str, role: str, level: str = "INFO", as_json: bool = True) -> None:
    """Sends structlog and the standard library's loggers through one renderer to standard output."""

    def name_process(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        event["role"] = role
        return event

    enrich: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        name_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    )
    structlog.configure(
        processors=[*enrich, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=enrich,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("aio_pika", "aiormq", "pika", "botocore", "aiobotocore", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel("WARNING")
