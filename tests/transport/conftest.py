"""Fixtures of the transport tests."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hop_world import Authority, World

from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.memory import MemoryHopLink, MemoryHopListener, MemoryNetwork
from edgekit.transport.tls import tls_contexts


@pytest.fixture(
    params=[
        pytest.param("tcp", marks=pytest.mark.integration),
        pytest.param("tls", marks=pytest.mark.integration),
        "memory",
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        if request.param == "memory":
            network = MemoryNetwork()
            yield World(
                lambda who, up: MemoryHopLink(
                    network, who, on_answer=up.on_answer, on_state=up.on_state
                ),
                lambda take, credit: MemoryHopListener(
                    network, on_activation=take, credit_count=credit
                ),
                stack,
            )
            return
        server = client = None
        if request.param == "tls":
            authority = Authority(tmp_path)
            server = tls_contexts(*authority.issue("edge-b"))[0]
            client = tls_contexts(*authority.issue("edge-a"))[1]
        yield World(
            lambda who, up: TcpHopLink(
                who, on_answer=up.on_answer, on_state=up.on_state, tls=client
            ),
            lambda take, credit: TcpHopListener(
                "127.0.0.1", 0, on_activation=take, credit_count=credit, tls=server
            ),
            stack,
        )
