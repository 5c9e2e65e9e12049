"""`taskfs.fuse.kernel.channel`: how a thread waits for the next request."""

import os
import threading
import time

import pytest

from taskfs.fuse.kernel import channel as channel_module
from taskfs.fuse.kernel.channel import SLEEPS, SPIN_S, Channel


@pytest.mark.parametrize("cores", [1, 2])
def test_requests_are_received_however_late(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    """R-40: A request that is there, comes soon or comes late is received, and so is the end; a
    thread that waits for long sleeps."""
    monkeypatch.setattr(channel_module, "usable_cores", lambda: cores)
    requests, kernel = os.pipe()
    channel, buffer = Channel(requests), bytearray(8)
    began_s = time.thread_time()
    pauses_s = [0.0, SPIN_S / 2, 0.1, *[SPIN_S] * (SLEEPS + 2), 0.1, 0.0]
    received = []
    for number, pause_s in enumerate(pauses_s):
        message = number.to_bytes(8, "little")
        timer = threading.Timer(pause_s, os.write, (kernel, message))
        timer.start()
        assert channel.receive(buffer) == 8
        received.append(int.from_bytes(buffer, "little"))
        timer.join()
    assert received == [*range(len(pauses_s))]
    assert time.thread_time() - began_s < 0.1
    threading.Timer(0.05, os.close, (kernel,)).start()
    assert channel.receive(buffer) == 0
    channel.close()
    os.close(requests)
