"""Journeys of users across services, through the gateway."""

import hashlib
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from tests.cluster import Cluster

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

OWN_ARCHIVE = Path(__file__).resolve().parents[1] / "deploy" / "local" / "demo-archive.zip"


def eventually(condition: Callable[[], Any], *, seconds: float = 30) -> Any:
    """Return the condition's first true value; changes that pass the bus become visible after a moment."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("the condition did not become true")


def finished(client: httpx.Client, path: str) -> dict[str, Any]:
    def job() -> Any:
        body = client.get(path).raise_for_status().json()
        return body if body["state"] in ("done", "failed") else None

    result: dict[str, Any] = eventually(job, seconds=120)
    return result


def imported(client: httpx.Client, content: bytes, name: str = "archive.zip") -> dict[str, Any]:
    answer = client.post("/v1/imports", files={"file": (name, content)})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/imports/{answer.json()['id']}"
    job = finished(client, answer.headers["location"])
    assert job["state"] == "done", job["error"]
    return job


def exported(client: httpx.Client, event_id: str) -> bytes:
    answer = client.post(f"/v1/events/{event_id}/exports")
    assert answer.status_code == 202, answer.text
    job = finished(client, answer.headers["location"])
    assert job["state"] == "done", job["error"]
    content = httpx.get(job["download_url"], timeout=30).raise_for_status().content
    assert hashlib.sha256(content).hexdigest() == job["sha256"]
    return content


def new_event(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {
        "name": "Probe",
        "timezone": "Europe/Berlin",
        "starts_at": "2031-05-01T09:00",
        "ends_at": "2031-05-02T18:00",
        **fields,
    }
    answer = client.post("/v1/events", json=body)
    assert answer.status_code == 201, answer.text
    event: dict[str, Any] = answer.json()
    return event


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", size, (200, 30, 30, 128)).save(file, "PNG")
    return file.getvalue()


def members(archive: bytes) -> dict[str, Any]:
    """Return the content of an archive's members by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_demo_succeeds(cluster: Cluster) -> None:
    demo = cluster.run("demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for words in (
        "import of demo-archive.zip",
        "first day in Europe/Berlin",
        "first day in America/New_York",
        "all in sequence Regular, Early bird, Last minute",
        "three variants out",
        "every member checked",
        "/docs",
    ):
        assert words in demo.stdout


def test_the_demo_succeeds_with_the_archive_of_a_real_conference(
    cluster: Cluster, sample: Callable[[str], Path]
) -> None:
    demo = cluster.run("demo", str(sample("FBF817.zip")))
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "63 sessions, " in demo.stdout


def test_an_imported_export_has_the_same_programme(organizer: httpx.Client) -> None:
    first = exported(organizer, imported(organizer, OWN_ARCHIVE.read_bytes())["event_id"])
    second = exported(organizer, imported(organizer, first)["event_id"])
    one, two = members(first), members(second)
    assert set(one) == set(two)
    for name in set(one) - {"meta", "event"}:
        assert one[name] == two[name], name
    event, again = json.loads(one["event"]), json.loads(two["event"])
    assert {key for key in event if event[key] != again.get(key)} <= {"identifier", "id"}


def test_tickets_receive_an_event_and_a_new_zone_moves_their_sales_windows(
    organizer: httpx.Client, public: httpx.Client
) -> None:
    event = new_event(organizer)
    tickets = f"/v1/events/{event['id']}/tickets"
    eventually(lambda: organizer.get(tickets).status_code == 200)
    ticket = organizer.post(
        tickets,
        json={
            "name": "Regular",
            "type": "free",
            "quantity": 10,
            "sales_starts_at": "2026-01-01T00:00",
            "sales_ends_at": "2031-05-01T09:00",
        },
    )
    assert ticket.status_code == 201, ticket.text
    assert ticket.json()["sales_ends_at"] == "2031-05-01T09:00:00+02:00"
    assert public.get(tickets).status_code == 404, "tickets of a draft must not be public"

    organizer.post(f"/v1/events/{event['id']}/publish").raise_for_status()
    eventually(lambda: public.get(tickets).status_code == 200)
    assert [item["name"] for item in public.get(tickets, params={"sales": "open"}).json()["items"]] == ["Regular"]

    moved = organizer.patch(f"/v1/events/{event['id']}", json={"timezone": "America/New_York"})
    assert moved.json()["starts_at"] == "2031-05-01T09:00:00-04:00", "the wall time stays, the instant moves"
    path = f"/v1/tickets/{ticket.json()['id']}"
    eventually(lambda: organizer.get(path).json()["sales_ends_at"] == "2031-05-01T09:00:00-04:00")


def test_speakers_get_the_addresses_of_imported_pictures(organizer: httpx.Client, public: httpx.Client) -> None:
    job = imported(organizer, OWN_ARCHIVE.read_bytes())
    path = f"/v1/events/{job['event_id']}/speakers"

    def all_pictures() -> Any:
        speakers = organizer.get(path).json()["items"]
        images = [speaker["images"] for speaker in speakers]
        return images if all(image and image["large"] for image in images) else None

    images = eventually(all_pictures)
    picture = public.get(images[0]["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert "immutable" in picture.headers["cache-control"]


def test_progress_is_streamed_until_the_job_is_done(organizer: httpx.Client) -> None:
    answer = organizer.post("/v1/imports", files={"file": ("archive.zip", OWN_ARCHIVE.read_bytes())})
    states: list[str] = []
    with organizer.stream("GET", f"/v1/imports/{answer.json()['id']}/progress") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        states.extend(json.loads(line[5:])["state"] for line in stream.iter_lines() if line.startswith("data:"))
    assert states[-1] == "done"


def test_a_killed_process_is_restarted(cluster: Cluster, organizer: httpx.Client) -> None:
    record = next(
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "events.api" in (process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("API_PORT")
        and str(cluster.state) in (process.info["environ"] or {}).get("JWKS_URL", "")
    )
    os.kill(record.pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(record.pid) or record.status() == psutil.STATUS_ZOMBIE)
    eventually(lambda: _is_up(organizer))


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/events").status_code == 200
    except httpx.HTTPError:
        return False


def test_internal_paths_are_not_reachable_through_the_gateway(
    public: httpx.Client, organizer: httpx.Client
) -> None:
    for path in ("/metrics", "/healthz/ready", "/healthz/live", "/internal/programmes", "/openapi.json"):
        assert public.get(path).status_code == 404, path
        assert organizer.get(path).status_code == 404, path


def test_one_docs_page_covers_all_four_services(public: httpx.Client) -> None:
    page = public.get("/docs")
    assert page.status_code == 200
    for name in ("events", "tickets", "media", "exports"):
        assert f"#{name}" in page.text
        schema = public.get(f"/docs/openapi/{name}.json").json()
        assert any(path.startswith("/v1/") for path in schema["paths"])


def test_resources_of_another_organizer_are_not_found(organizer: httpx.Client, stranger: httpx.Client) -> None:
    event = new_event(organizer)
    image = organizer.post("/v1/images", files={"file": ("a.png", png())}).json()
    job = imported(organizer, OWN_ARCHIVE.read_bytes())
    export = organizer.post(f"/v1/events/{event['id']}/exports").json()
    ticket = eventually(
        lambda: (
            (
                answer := organizer.post(
                    f"/v1/events/{event['id']}/tickets",
                    json={"name": "T", "type": "free", "quantity": 1, "max_per_order": 1},
                )
            ).status_code
            == 201
            and answer.json()
        )
    )
    reads = (
        f"/v1/events/{event['id']}",
        f"/v1/events/{event['identifier']}",
        f"/v1/events/{event['id']}/sessions",
        f"/v1/events/{event['id']}/schedule",
        f"/v1/events/{event['id']}/tickets",
        f"/v1/events/{event['id']}/exports",
        f"/v1/tickets/{ticket['id']}",
        f"/v1/images/{image['id']}",
        f"/v1/imports/{job['id']}",
        f"/v1/exports/{export['id']}",
        f"/v1/exports/{export['id']}/download",
    )
    for path in reads:
        answer = stranger.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), path
    writes = (
        ("PATCH", f"/v1/events/{event['id']}", {"name": "mine"}),
        ("POST", f"/v1/events/{event['id']}/publish", None),
        ("POST", f"/v1/events/{event['id']}/exports", None),
        ("POST", f"/v1/events/{event['id']}/tickets", {"name": "X", "type": "free", "max_per_order": 1}),
        ("PATCH", f"/v1/tickets/{ticket['id']}", {"name": "mine"}),
    )
    for method, path, body in writes:
        answer = stranger.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), (method, path)
