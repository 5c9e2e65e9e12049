"""The STUN and TURN server: used where it answers, and no delay where it does not."""

import re
import time
from collections.abc import Iterator

import pytest

from taskfs.remote import live_channel, live_ice, live_servers
from taskfs.remote.live_channel import LiveChannels
from taskfs.remote.live_messages import LS
from taskfs.remote.live_signalling import SignallingRequest
from tests.fake_api import FakeCloud
from tests.live.conftest import BUSY_S, PATIENT_S, Requests
from tests.stun import StunServer

CANDIDATE = re.compile(rb"(udp \d+ )\S+ \d+( typ)")


class WatchedRequests(Requests):
    """Records the offers; makes the addresses in the first offers and answers unreachable."""

    def __init__(self, cloud: FakeCloud, unreachable: int = 0) -> None:
        super().__init__(cloud)
        self.offers: list[str] = []
        self.unreachable = unreachable

    def __call__(self, request: SignallingRequest) -> tuple[int, bytes]:
        message = request.json
        if message and "sdp" in message:
            self.offers.append(message["sdp"])
            if self.unreachable:
                lost = CANDIDATE.sub(rb"\g<1>192.0.2.77 9\2", message["sdp"].encode()).decode()
                request = request._replace(json={**message, "sdp": lost})
        status, content = super().__call__(request)
        if request.path.endswith("/message") and status == 200 and self.unreachable:
            self.unreachable -= 1
            content = CANDIDATE.sub(rb"\g<1>192.0.2.77 9\2", content)
        return status, content


@pytest.fixture
def server() -> Iterator[StunServer]:
    server = StunServer()
    yield server
    server.close()


def first_question_s(cloud: FakeCloud, requests: WatchedRequests, server: str, task: str) -> float:
    channels = LiveChannels(requests, turn_server=server)
    start_s = time.monotonic()
    try:
        assert channels.machine(task).ask(LS, PATIENT_S, lambda: False) is not None
        return time.monotonic() - start_s
    finally:
        channels.close()


def test_a_server_that_answers_is_used(
    cloud: FakeCloud, server: StunServer, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-10, L-6: `INDUCTIVA_TURN_SERVER_URL` is honoured; the offer announces what we take."""
    monkeypatch.setattr(live_channel, "SERVER_WAIT_S", BUSY_S)  # the server answers at once
    monkeypatch.setattr(live_ice, "GATHER_S", BUSY_S)
    requests = WatchedRequests(cloud)
    first_question_s(cloud, requests, server.address, task)
    assert server.requests > 2  # those of the probe, and those of aiortc
    (offer,) = requests.offers
    assert "typ srflx" in offer
    assert "a=max-message-size:16777216\r\n" in offer


def test_a_server_that_speaks_no_turn_does_not_delay(
    cloud: FakeCloud, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-8: A server that does not answer does not delay a machine that is reachable."""
    monkeypatch.setattr(live_servers, "_PROBE_S", PATIENT_S)
    server = StunServer(turn=False)
    try:
        requests = WatchedRequests(cloud)
        assert first_question_s(cloud, requests, server.address, task) < BUSY_S
        assert len(server.allocations) <= 1  # aiortc, which would wait for an answer, sends none
    finally:
        server.close()


def test_a_slow_server_is_used_where_the_machine_is_not_reachable_without(
    cloud: FakeCloud, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-8: the first offer does not wait for a slow server, and a second one uses it."""
    monkeypatch.setattr(live_channel, "HOST_ONLY_S", 3.0)
    server = StunServer(delay_s=0.6)
    try:
        requests = WatchedRequests(cloud, unreachable=1)
        taken_s = first_question_s(cloud, requests, server.address, task)
        assert 3.0 < taken_s < BUSY_S
        assert len(requests.offers) == 2
        assert server.requests > 4
    finally:
        server.close()
