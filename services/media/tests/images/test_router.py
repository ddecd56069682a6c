from uuid import UUID

import pytest

from media.images.tasks import Resources, convert_image
from services.media.tests.factories import Upload, png
from testkit.plugin import Live, TokenFactory

GATEWAY = "http://gateway.test"


@pytest.mark.main_path
async def test_the_list_pages_the_organizers_own_images_newest_first(
    live: Live, upload: Upload, tokens: TokenFactory
) -> None:
    ids = [(await upload(png(8, 8))).json()["id"] for _ in range(3)]
    await upload(png(8, 8), org="rival")

    first = await live.client.get("/v1/images?limit=2", headers=tokens.organizer())
    assert [image["id"] for image in first.json()["items"]] == [ids[2], ids[1]]
    second = await live.client.get(first.links["next"]["url"], headers=tokens.organizer())
    assert [image["id"] for image in second.json()["items"]] == [ids[0]]
    assert second.json()["next_cursor"] is None


@pytest.mark.parametrize("place", ["local", "s3"])
async def test_a_variant_is_cached_forever_and_cannot_run_scripts(
    live: Live, upload: Upload, resources: Resources, tokens: TokenFactory
) -> None:
    image_id = (await upload(png())).json()["id"]
    await convert_image(resources, UUID(image_id))
    image = (await live.client.get(f"/v1/images/{image_id}", headers=tokens.organizer())).json()
    variant = image["variants"][0]
    path = variant["url"].removeprefix(GATEWAY)

    fetched = await live.client.get(path)
    digest = path.removesuffix(".jpg")[-16:]
    expected = {
        "Content-Type": "image/jpeg",
        "Content-Length": str(variant["size"]),
        "ETag": f'"{digest}"',
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": "inline",
    }
    assert {name: fetched.headers[name] for name in expected} == expected

    head = await live.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert {name: head.headers[name] for name in expected} == expected

    known = await live.client.get(path, headers={"If-None-Match": f'"{digest}"'})
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["ETag"] == f'"{digest}"'
    assert (await live.client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200

    wrong = path.replace(digest, digest[::-1])
    for method in ("GET", "HEAD"):
        answer = await live.client.request(method, wrong, headers={"If-None-Match": "*"})
        assert answer.status_code == 404
        assert answer.headers["Cache-Control"] == "no-store"
    for other in ("large.jpg", f"large-{digest}.png", f"huge-{digest}.jpg", f"..%2f{digest}.jpg"):
        assert (await live.client.get(f"/v1/images/{image_id}/{other}")).status_code == 404
