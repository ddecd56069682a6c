import pytest
from pydantic import BaseModel

from shared.http.etags import etag_headers
from shared.http.responses import conditional_response, created, json_response


class Wall(BaseModel):
    color: str


def test_a_model_and_its_json_give_the_same_response() -> None:
    from_model, from_text = json_response(Wall(color="red")), json_response('{"color":"red"}')
    assert from_model.body == from_text.body == b'{"color":"red"}'
    assert from_model.headers["content-type"] == "application/json"


def test_a_created_response_says_where_the_resource_is() -> None:
    response = created("/v1/walls/1", Wall(color="red"), status=202, headers={"ETag": '"1"'})
    assert (response.status_code, response.headers["location"], response.headers["etag"]) == (
        202,
        "/v1/walls/1",
        '"1"',
    )


@pytest.mark.parametrize(("if_none_match", "status", "body"), [('"1"', 304, b""), ('"0"', 200, b'{"color":"red"}')])
def test_only_a_caller_with_another_version_gets_the_content(if_none_match: str, status: int, body: bytes) -> None:
    response = conditional_response(if_none_match, Wall(color="red"), etag_headers('"1"'))
    assert (response.status_code, response.body) == (status, body)
    assert response.headers["etag"] == '"1"'
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["vary"] == "Authorization"


def test_a_private_response_is_kept_by_the_callers_cache_only() -> None:
    assert etag_headers('"1"', is_private=True) == {"ETag": '"1"', "Cache-Control": "private, no-cache"}
