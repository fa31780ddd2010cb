"""Fixtures shared by all tests."""

from collections.abc import Iterator

import pytest

from edgekit.errors import ConfigError


@pytest.fixture(scope="session")
def mosquitto_url() -> Iterator[str]:
    """A real Mosquitto for the whole test session (one per worker process)."""
    from edgekit.transport.mosquitto import MosquittoBroker

    try:
        broker = MosquittoBroker()
        broker.__enter__()
    except ConfigError as error:
        pytest.skip(str(error))
    try:
        yield broker.url
    finally:
        broker.__exit__(None, None, None)
