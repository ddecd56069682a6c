"""The stream of a job's progress."""

import asyncio
import json
from typing import Any

from services.exports.tests.factories import Upload, request_scope, set_progress, with_event
from testkit.plugin import Live, TokenFactory

GIVEN_UP = {
    "type": "urn:rostrum:problem:job-given-up",
    "title": "Job failed repeatedly",
    "status": 500,
    "code": "job-given-up",
    "detail": "5 attempts ended without a result.",
    "errors": [],
}


class Follower:
    """A client that reads events one by one and may disconnect."""

    def __init__(self, live: Live, path: str, headers: dict[str, str]) -> None:
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.left = asyncio.Event()
        self._asked = False
        self.task = asyncio.create_task(live.app(request_scope(path, "GET", headers), self._receive, self._send))

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message.get("body"):
            self.chunks.put_nowait(message["body"])

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                event = (await self.chunks.get()).decode()
                if event.startswith("data: "):
                    found: dict[str, Any] = json.loads(event.removeprefix("data: "))
                    return found


async def test_follower_sees_each_change_and_the_end(live: Live, tokens: TokenFactory, upload: Upload) -> None:
    import_id = (await upload(with_event())).json()["id"]
    follower = Follower(live, f"/v1/imports/{import_id}/progress", tokens.organizer())
    assert (await follower.next())["state"] == "queued"
    await set_progress(live, import_id, state="running", step="uploading images", done=1, total=9)
    seen = await follower.next()
    assert (seen["state"], seen["step"], seen["done"], seen["total"]) == ("running", "uploading images", 1, 9)
    await set_progress(live, import_id, done=9)
    assert (await follower.next())["done"] == 9
    await set_progress(live, import_id, state="done")
    assert (await follower.next())["state"] == "done"
    async with asyncio.timeout(10):
        await follower.task
    assert live.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_stream_holds_no_connection_and_ends_when_its_follower_disconnects(
    live: Live, tokens: TokenFactory, upload: Upload
) -> None:
    import_id = (await upload(with_event())).json()["id"]
    followers = [
        Follower(live, f"/v1/imports/{import_id}/progress", tokens.organizer())
        for _ in range(live.settings.database_pool_size * 4)
    ]
    for follower in followers:
        await follower.next()
    assert (await live.client.get(f"/v1/imports/{import_id}", headers=tokens.organizer())).status_code == 200
    for follower in followers:
        follower.left.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*(follower.task for follower in followers), return_exceptions=True)


async def test_finished_import_is_streamed_once(live: Live, tokens: TokenFactory, upload: Upload) -> None:
    import_id = (await upload(with_event())).json()["id"]
    await set_progress(live, import_id, state="failed", error={**GIVEN_UP})
    answer = await live.client.get(f"/v1/imports/{import_id}/progress", headers=tokens.organizer())
    assert answer.headers["content-type"].startswith("text/event-stream")
    [line] = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    sent = json.loads(line.removeprefix("data: "))
    assert (sent["state"], sent["error"]["code"]) == ("failed", "job-given-up")
