"""Frozen samples of the internal HTTP calls: what a caller sends, and what the callee answers.

The tests of the caller check that it sends such a request and reads such an answer; those of the callee check that
it accepts the request and answers by the contract.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "tests" / "contracts" / "calls"

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class Call:
    """One exchange. ``path`` has the names of ``ids`` in braces; a ``body`` or ``answer`` of None is not JSON."""

    name: str
    method: str
    path: str
    ids: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    status: int
    answer: Any

    def url(self, **ids: object) -> str:
        """Return the path with the sample's ids, or with others."""
        return self.path.format(**{**self.ids, **ids})


def calls() -> list[Call]:
    """Return all samples, sorted by name, the oldest of a call first."""
    files = sorted(SAMPLES.glob("*/*.json"), key=lambda file: (file.parent.name, int(file.stem)))
    return [_read(file) for file in files]


def newest_call(name: str) -> Call:
    return [call for call in calls() if call.name.partition("/")[0] == name][-1]


def _read(file: Path) -> Call:
    content = json.loads(file.read_text(encoding="utf-8"))
    request, answer = content["request"], content["answer"]
    return Call(
        name=f"{file.parent.name}/{file.name}",
        method=request["method"],
        path=request["path"],
        ids=request.get("ids", {}),
        query=request.get("query", {}),
        body=request.get("body"),
        status=answer["status"],
        answer=answer.get("body"),
    )


def read_whole(body: type[Body], response: httpx.Response) -> Body:
    """Return the answer's body. Fails when the contract lacks a member of it, or requires one that it lacks."""
    assert response.is_success, response.text
    read = body.model_validate_json(response.content)
    assert json.loads(read.model_dump_json(exclude=set(read.model_extra or ()))) == response.json()
    return read
