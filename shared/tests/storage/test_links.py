import re
from urllib.parse import parse_qsl, unquote

import pytest

from shared.storage.links import LinkExpired, LinkInvalid, SigningKeys, content_disposition, sign_link, verify_link

OLD, NEW = "an-older-key-of-32-characters-00", "a-newer-key-of-32-characters-000"


def signed(keys: SigningKeys, expires_at: int = 1 << 40) -> dict[str, str]:
    query = sign_link(keys, "a.zip", expires_at=expires_at, filename="a b.zip", content_type="application/zip")
    return dict(parse_qsl(query))


def test_links_of_the_older_key_work_until_it_is_removed() -> None:
    old, rotating, new = (SigningKeys.parse(text) for text in (OLD, f"{NEW}, {OLD}", NEW))
    assert verify_link(rotating, "a.zip", signed(old)) == ("a b.zip", "application/zip")
    verify_link(new, "a.zip", signed(rotating))
    with pytest.raises(LinkInvalid):
        verify_link(new, "a.zip", signed(old))


def test_links_of_shipped_releases_stay_valid() -> None:
    query = (
        "expires=1099511627776&filename=Gr%C3%BC%C3%9Fe.zip&type=application%2Fzip&key=eae2e508&"
        "signature=bf819dfa4d11349ad9de56110631100cad86897321b0b561c4f8a8eacc9e34c7"
    )
    keys = SigningKeys.parse(NEW)
    assert verify_link(keys, "a.zip", dict(parse_qsl(query))) == ("Grüße.zip", "application/zip")
    link = sign_link(keys, "a.zip", expires_at=1 << 40, filename="Grüße.zip", content_type="application/zip")
    assert link == query


def test_a_link_is_verified_before_its_expiry() -> None:
    keys = SigningKeys.parse(NEW)
    with pytest.raises(LinkExpired):
        verify_link(keys, "a.zip", signed(keys, expires_at=1))
    with pytest.raises(LinkInvalid):
        verify_link(keys, "b.zip", signed(keys, expires_at=1))
    with pytest.raises(LinkInvalid):
        verify_link(keys, "a.zip", {"expires": "not a number"})
    assert (LinkInvalid.status, LinkExpired.status) == (403, 410)


@pytest.mark.parametrize(
    ("filename", "plain", "full"),
    [
        ("plan.zip", "plan.zip", "plan.zip"),
        ("日本.zip", "download.zip", "日本.zip"),
        ('a"; filename="evil.exe', "a_; filename=_evil.exe", "a_; filename=_evil.exe"),
        ("../../etc/passwd", "_._etc_passwd", "_.._etc_passwd"),
        ("a\r\nSet-Cookie: b", "a__Set-Cookie: b", "a__Set-Cookie: b"),
        ("gpj.\u202eexe", "gpj._exe", "gpj._exe"),
        ("", "download", "download"),
        ("...", "download", "download"),
        ("x" * 300 + ".zip", "x" * 150 + ".zip", "x" * 150 + ".zip"),
        ("\ud800.zip", "_.zip", "_.zip"),
        ("a\uff0fb\uff02.zip", "a_b_.zip", "a\uff0fb\uff02.zip"),
    ],
)
def test_file_names_are_safe_in_a_header(filename: str, plain: str, full: str) -> None:
    header = content_disposition(filename)
    assert header.isascii()
    assert header.isprintable()
    named = re.fullmatch(r"attachment; filename=\"([^\"]*)\"; filename\*=UTF-8''([\w.%~-]*)", header)
    assert named is not None
    assert (named[1], unquote(named[2])) == (plain, full)
