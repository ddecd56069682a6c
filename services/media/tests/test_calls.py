"""Internal calls: the request of each frozen sample is accepted, and answered by the contract."""

from typing import Any
from uuid import UUID

import pytest

from media.images.tasks import Resources, convert_image
from services.media.tests.factories import png
from shared.contracts.media import ImageStates, ImportedImage
from testkit.calls import calls, newest_call, read_whole
from testkit.plugin import Live, TokenFactory

IMPORTS = [call for call in calls() if call.name.startswith("media.image.import/")]


@pytest.mark.parametrize("call", IMPORTS, ids=lambda call: call.name)
async def test_sample_of_an_imported_image_is_accepted_converted_and_given_back(
    live: Live, tokens: TokenFactory, resources: Resources, call: Any
) -> None:
    service = tokens.service("exports")
    content = png()
    imported = await live.client.post(call.url(), params=call.query, content=content, headers=service)
    assert imported.status_code == call.status
    image_id = read_whole(ImportedImage, imported).image_id

    states = newest_call("media.image_states.read")
    for state in ("received", "ready"):
        body = {**states.body, "image_ids": [str(image_id)]}
        answer = await live.client.request(states.method, states.url(), json=body, headers=service)
        [image] = read_whole(ImageStates, answer).images
        assert (image.image_id, image.state) == (image_id, state)
        if state == "received":
            await convert_image(resources, image_id)
    assert [variant.name for variant in image.variants] == [
        variant["name"] for variant in states.answer["images"][0]["variants"]
    ]

    original = newest_call("media.image.original")
    fetched = await live.client.get(original.url(image_id=image_id), params=original.query, headers=service)
    assert (fetched.status_code, fetched.content) == (original.status, content)


async def test_unknown_parts_of_a_request_are_refused_by_name(live: Live, tokens: TokenFactory) -> None:
    service = tokens.service("exports")
    sent, states, original = (
        newest_call(f"media.{name}") for name in ("image.import", "image_states.read", "image.original")
    )
    for answer, field in (
        (await live.client.post(sent.url(), params={**sent.query, "alt": "Zoë"}, headers=service), "query.alt"),
        (await live.client.post(states.url(), json={**states.body, "size": 1}, headers=service), "body.size"),
        (
            await live.client.get(
                original.url(image_id=UUID(int=1)), params={**original.query, "size": "1"}, headers=service
            ),
            "query.size",
        ),
    ):
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
