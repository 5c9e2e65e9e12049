"""A cloud with machines, and the channel to them through the requests of a plain client."""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from taskfs.demo.cloud import EmbeddedCloud
from taskfs.errors import Unavailable
from taskfs.model import LIVE_STATUSES
from taskfs.remote import live_channel
from taskfs.remote.live_channel import LiveChannels
from taskfs.remote.live_connection import require_aiortc
from taskfs.remote.live_signalling import SignallingRequest
from taskfs.tasks.live import LiveFiles
from tests.fake_api import FakeCloud
from tests.mounts import NO_TURN_SERVER

# Refuses at once; a silent server has a test of its own.
NO_SERVER = NO_TURN_SERVER
# In seconds. A question that should end early ends within BUSY_S also on a busy machine; without
# the reason to end, it would last PATIENT_S.
BUSY_S = 30.0
PATIENT_S = 60.0


class Requests:
    """Authenticated requests to the cloud, as the task API's client makes them."""

    def __init__(self, cloud: EmbeddedCloud) -> None:
        self._cloud = cloud

    def __call__(self, request: SignallingRequest) -> tuple[int, bytes]:
        method, path, params, json, timeout_s = request
        url = self._cloud.api_url + path + ("?" + urlencode(params) if params else "")
        headers = {"X-API-Key": self._cloud.api_key, "Content-Type": "application/json"}
        body = None if json is None else _encode(json)
        sent = urllib.request.Request(url, body, headers, method=method)
        try:
            with urllib.request.urlopen(sent, timeout=timeout_s) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read()
        except OSError as exc:
            raise Unavailable(f"{method} {path}: {type(exc).__name__}") from exc


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(autouse=True, scope="session")
def imported_aiortc() -> None:
    """Import aiortc first: by the first offer, a cloud would do so while its requests wait."""
    require_aiortc()


@pytest.fixture(autouse=True)
def no_turn_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trees in process look for no server on the internet."""
    monkeypatch.setenv("INDUCTIVA_TURN_SERVER_URL", NO_SERVER)
    monkeypatch.setattr(live_channel, "HOST_ONLY_S", PATIENT_S)


@contextlib.contextmanager
def question_timeout(channels: LiveChannels, timeout_s: float) -> Iterator[None]:
    """Give the questions of this block less time; all others have that of a busy machine."""
    before, channels.question_timeout_s = channels.question_timeout_s, timeout_s
    yield
    channels.question_timeout_s = before


@contextlib.contextmanager
def fails_early(error: type[Exception] = Unavailable) -> Iterator[None]:
    """Expect *error*, and earlier than `PATIENT_S` by far."""
    began_s = time.monotonic()
    with pytest.raises(error):
        yield
    assert time.monotonic() - began_s < BUSY_S


NewChannels = Callable[..., LiveChannels]


@pytest.fixture
def new_channels(cloud: FakeCloud) -> Iterator[NewChannels]:
    made: list[LiveChannels] = []

    def new(**options: Any) -> LiveChannels:
        patient = {"connect_timeout_s": PATIENT_S, "question_timeout_s": PATIENT_S}
        options = {"turn_server": NO_SERVER, **patient, **options}
        made.append(LiveChannels(Requests(cloud), **options))
        return made[-1]

    yield new
    for channels in made:
        channels.close()


@pytest.fixture
def channels(new_channels: NewChannels) -> LiveChannels:
    return new_channels()


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    """A running task whose machine has two files."""
    task_id = cloud.add_task(status="computation-started")
    files = cloud.machine_files(task_id)
    files.write("stdout.txt", b"one\ntwo\nthree\n")
    files.write("log/solver.log", b"residual 1\nresidual 2\n")
    return task_id


@pytest.fixture
def new_files(cloud: FakeCloud, new_channels: NewChannels) -> Callable[..., LiveFiles]:
    """Opens the files of a task; *channels* and options of `LiveFiles` may be given."""

    def new(
        task_id: str,
        timeout_s: float = PATIENT_S,
        channels: LiveChannels | None = None,
        **options: Any,
    ) -> LiveFiles:
        channels = channels or new_channels(connect_timeout_s=timeout_s)
        return LiveFiles(
            channels.machine(task_id),
            is_live=lambda _: cloud.statuses()[task_id] in LIVE_STATUSES,
            timeout_s=timeout_s,
            **options,
        )

    return new
