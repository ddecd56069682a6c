"""What operators find on standard output."""

import json
import subprocess
import sys
from typing import Any

_PREAMBLE = """
import logging
from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger
configure_logs(Settings(service="probe"), "api")
log = get_logger("probe.paint")
"""


def lines_of(code: str) -> list[dict[str, Any]]:
    """In a process of its own: logging is configured once per process."""
    done = subprocess.run([sys.executable, "-c", _PREAMBLE + code], capture_output=True, check=True)
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_our_lines_and_those_of_libraries_look_alike_and_stay_in_order() -> None:
    lines = lines_of(
        'log.info("paint.done", walls=2); logging.getLogger("lib").warning("%s", "late"); log.info("end")'
    )
    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [
        ("paint.done", "probe.paint", "info"),
        ("late", "lib", "warning"),
        ("end", "probe.paint", "info"),
    ]
    assert lines[0]["walls"] == 2
    assert all((line["service"], line["role"]) == ("probe", "api") and line["timestamp"] for line in lines)


def test_lines_below_the_level_are_left_out() -> None:
    assert lines_of('log.debug("no"); logging.getLogger("lib").debug("no")') == []


def test_no_value_can_lose_or_forge_a_line() -> None:
    odd = {"big": 2**70, "half": "\ud800", "forged": 'x"}\n{"event":"forged"', "unknown": {1: object}}
    lines = lines_of(f'log.info("odd", big=2**70, half={odd["half"]!a}, forged={odd["forged"]!r}, unknown=object)')
    assert [line["event"] for line in lines] == ["odd"]
    assert (lines[0]["big"], lines[0]["half"], lines[0]["forged"]) == (odd["big"], odd["half"], odd["forged"])


def test_an_exception_is_told_without_the_values_of_local_variables() -> None:
    code = """
def connect(password):
    raise ValueError("refused")
for report in (lambda: log.exception("failed"), lambda: logging.getLogger("lib").exception("failed")):
    try:
        connect("s3cret")
    except ValueError:
        report()
"""
    for line in lines_of(code):
        assert line["exception"][0]["exc_value"] == "refused"
        assert [frame["name"] for frame in line["exception"][0]["frames"]][-1] == "connect"
        assert "s3cret" not in json.dumps(line)


def test_an_output_that_is_gone_fails_nothing_but_the_logs() -> None:
    code = 'import os; os.close(1); log.info("unheard"); print("alive", file=__import__("sys").stderr)'
    done = subprocess.run([sys.executable, "-c", _PREAMBLE + code], capture_output=True, check=False)
    assert b"alive" in done.stderr
