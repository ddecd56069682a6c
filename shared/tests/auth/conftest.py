import time
from collections.abc import AsyncIterator

import pytest

from shared.auth.keys import JwksClient
from shared.auth.verify import TokenVerifier
from testkit.issuer import AUDIENCE, ED, ISSUER, RSA, Clock, Issuer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    issuer.publish(RSA, ED)
    async with issuer.serving():
        yield issuer


@pytest.fixture
def ticks() -> Clock:
    """The monotonic clock of the key client."""
    return Clock(1000.0)


@pytest.fixture
def now() -> Clock:
    """The clock that tokens are verified with."""
    return Clock(time.time())


@pytest.fixture
async def keys(issuer: Issuer, ticks: Clock) -> AsyncIterator[JwksClient]:
    keys = JwksClient(issuer.url, clock=ticks)
    yield keys
    await keys.aclose()


@pytest.fixture
def verifier(keys: JwksClient, now: Clock) -> TokenVerifier:
    return TokenVerifier(ISSUER, AUDIENCE, keys, clock=now)
