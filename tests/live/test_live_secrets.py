"""A session with a machine writes no key, ICE password or session description to the logs."""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from taskfs.demo.endpoint import CloudResponse, RequestRecord, Responder
from tests.fake_api import FakeCloud, Faults
from tests.live.test_live_tree import end_task
from tests.mounts import Mount, eventually

pytestmark = pytest.mark.mount
# Loads first in each process: lets the loggers of all packages write all they have.
LOGGING = "import logging\nlogging.basicConfig(filename={!r}, level=logging.DEBUG)\n"
# In a session description: the lines and the words that carry addresses, keys and passwords.
SIGNS = ("ice-ufrag", "ice-pwd", "candidate:", "fingerprint", "m=application", "a=setup", "c=IN ")


class SignallingListener(Faults):
    """Faults that also collect the secrets of all offers and answers that pass the API: passwords,
    names and fingerprints of both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    async def __call__(
        self, request: web.Request, record: RequestRecord, respond: Responder
    ) -> CloudResponse:
        response = await super().__call__(request, record, respond)
        if record.path.endswith("/offer"):
            self._note(await request.read())
        elif record.path.endswith("/message") and response.status == 200:
            self._note(bytes(response.source.read(response.start, response.stop)))
        return response

    def _note(self, message: bytes) -> None:
        sdp = json.loads(message)["sdp"]
        self.secrets |= set(re.findall(r"a=ice-(?:pwd|ufrag):(\S+)", sdp))
        self.secrets |= set(re.findall(r"a=fingerprint:\S+ (\S+)", sdp))


@pytest.fixture
def signalling() -> SignallingListener:
    return SignallingListener()


@pytest.fixture
def cloud(signalling: SignallingListener) -> Iterator[FakeCloud]:
    with FakeCloud(signalling) as cloud:
        yield cloud


def test_a_whole_session_at_the_finest_level(
    cloud: FakeCloud,
    signalling: SignallingListener,
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_mount: Callable[..., Mount],
) -> None:
    """L-10, Y-3: No key, ICE password or session description is written to a log with `-vv`: not
    by the loggers of aiortc and aioice either, and not where connections fail."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    everything = tmp_path / "everything.log"
    (hooks / "sitecustomize.py").write_text(LOGGING.format(str(everything)))
    monkeypatch.setenv("PYTHONPATH", str(hooks))
    mount = new_mount(log_level="debug", timeout="60s")
    live = mount.path / task / "live"
    with open(live / "stdout.txt", "rb") as opened:
        assert opened.read() == b"one\ntwo\nthree\n"
        machine = cloud.machine(task)
        for kind in ("vanish", "goodbye", "nonsense", "silence"):
            machine.faults.add(kind, text="[[1]]")
            time.sleep(1.1)  # the last listing is too old then
            with contextlib.suppress(OSError):
                os.listdir(live)
            (mount.path / ".taskfs/refresh").write_text("1")
        cloud.faults.add("json", path="/message", value={"type": "answer", "sdp": "v=0\r\nodd"})
        cloud.hang_up(task)
        with contextlib.suppress(OSError):
            os.listdir(live)
        (mount.path / ".taskfs/refresh").write_text("1")
        eventually(lambda: os.listdir(live) == ["stdout.txt", "log"])
        end_task(cloud, task, {"stdout.txt": b"one\ntwo\nthree\nfour\n"})
        eventually(lambda: opened.read() == b"four\n")
    mount.stop()
    text = mount.log.read_text() + everything.read_text()
    assert f"task {task}: connected to its machine" in text
    assert len(signalling.secrets) > 8
    for secret in (*signalling.secrets, *SIGNS, cloud.api_key):
        assert secret not in text
