"""Every route declares its access, and no organizer finds anything of another."""

from services.media.tests.factories import Upload, png
from testkit.access import UNDECLARED, declared_access
from testkit.plugin import Live, TokenFactory

OURS = ("/healthz/", "/metrics", "/docs")


def paths(live: Live) -> dict[tuple[str, str], str]:
    return {route: access for route, access in declared_access(live.app).items() if not route[1].startswith(OURS)}


async def test_every_route_declares_its_access(live: Live) -> None:
    assert set(paths(live).values()) == {"media:read", "media:write", "internal", "public"}
    assert UNDECLARED not in paths(live).values()
    assert all(access == "internal" for (_, path), access in paths(live).items() if path.startswith("/internal"))


async def test_another_organizers_image_is_not_found_on_any_route(
    live: Live, upload: Upload, tokens: TokenFactory
) -> None:
    image_id = (await upload(png())).json()["id"]
    nothing = "019b0000-0000-7000-8000-000000000000"
    checked = 0
    for (method, path), access in paths(live).items():
        if "{" not in path or access == "internal":
            continue
        checked += 1
        answers = [
            await live.client.request(
                method,
                path.format(image_id=some_id, file_name="large-0123456789abcdef.jpg"),
                headers=tokens.organizer("rival"),
            )
            for some_id in (image_id, nothing)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], path
        if method != "HEAD":
            bodies = [
                {name: value for name, value in answer.json().items() if name != "request_id"} for answer in answers
            ]
            assert str(bodies[0]).replace(image_id, "") == str(bodies[1]).replace(nothing, "")
    assert checked == 3


async def test_without_a_token_or_scope_only_variants_are_served(live: Live, tokens: TokenFactory) -> None:
    for (method, path), access in paths(live).items():
        path = path.format(image_id="019b0000-0000-7000-8000-000000000000", file_name="large-0123456789abcdef.jpg")
        bare = await live.client.request(method, path)
        powerless = await live.client.request(method, path, headers=tokens.organizer(scope="events:read"))
        if access == "public":
            assert bare.status_code in (200, 404), path
        else:
            assert (bare.status_code, powerless.status_code) == (401, 403), path
        if access == "internal":
            organizer = await live.client.request(method, path, headers=tokens.organizer())
            assert organizer.status_code == 403, path
