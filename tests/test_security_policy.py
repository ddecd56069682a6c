"""SECURITY.md names a test for every promise, and these tests exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/.-]+\.py)::(\w+)`", TEXT)))


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its header."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def functions_of(path: Path) -> dict[str, ast.AST]:
    tree = ast.parse(path.read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("heading", ["Access", "Limits"])
def test_every_promise_names_a_test(heading: str) -> None:
    table = rows(heading)
    assert len(table) > 5
    for row in table:
        assert len(row) == 4, row
        assert re.fullmatch(r"(`[\w/.-]+\.py::test_\w+` ?)+", row[-1]), row


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists_and_is_not_skipped(path: str, name: str) -> None:
    found = functions_of(ROOT / path).get(name)
    assert found is not None, f"{path} has no {name}: SECURITY.md must name an existing test"
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    decorators = " ".join(ast.unparse(each) for each in found.decorator_list)
    assert "skip" not in decorators
    assert "xfail" not in decorators


def test_every_actor_is_described() -> None:
    described = set(re.findall(r"^\| \*\*([^*]+)\*\* \|", TEXT.split("## Actors")[1].split("\n## ")[0], re.M))
    for description, *_ in rows("Access"):
        actor = description.split(",")[0]
        known = actor in described or actor.startswith(("uploaded", "storage key", "a cache", "reader of"))
        assert known or actor == "another user of the machine", description
