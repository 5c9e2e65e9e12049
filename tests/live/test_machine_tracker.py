"""The embedded cloud's tracker answers as the public task runner's does, silences included."""

import io
import json
import threading
import time
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfs.demo.cloud import EmbeddedCloud
from taskfs.demo.machines.files import WrittenFiles
from taskfs.demo.machines.tracker import NoAnswer, Tail
from taskfs.model import KNOWN_STATUSES, LIVE_STATUSES
from taskfs.remote.live_channel import LiveChannels
from taskfs.remote.live_messages import LS, Question, tail
from taskfs.remote.live_signalling import SignallingRequest
from taskfs.tasks.live import LiveFiles
from tests.fake_api import FakeCloud
from tests.live.conftest import BUSY_S, NO_SERVER, PATIENT_S, Requests
from tests.live.machine_model import Clock, ModelMachine
from tests.mounts import eventually


def machine_with(content: bytes) -> ModelMachine:
    machine = ModelMachine(Clock())
    machine.files.write("f", content)
    return machine


def message(machine: ModelMachine, question: Question) -> Any:
    answer = machine.ask(question)
    assert answer is not None
    return answer.message


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"a\nb\nc\n", 2, ["b", "c"]),
        (b"a\nb\nc", 2, ["b", "c"]),
        (b"a\nb\n\n", 2, ["b", ""]),
        (b"a\nb\n", 10, ["a", "b"]),
        (b"\n", 10, [""]),
        (b"a\r\n\0\n", 10, ["a\r", "\0"]),
        (b"one long line" * 200, -1, []),
        (b"a\nb\nc\n", -1, ["b", "c"]),
        (b"a\nb\nc\n", 0, ["a", "b", "c"]),
        (b"0123456\n" * 1000, 0, ["0123456"] * 128),
        (b"0123456\n" * 1000, -1, ["0123456"] * 127),
    ],
)
def test_tail(content: bytes, lines: int, expected: list[str]) -> None:
    """L-13: the machine's tail: blocks of 1024 bytes, one last newline dropped."""
    assert message(machine_with(content), tail("f", lines)) == expected


@settings(deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 60))
def test_tail_is_the_end_of_the_text(content: bytes, lines: int) -> None:
    """L-13: fewer lines than asked for are the whole file; the lines joined are its bytes."""
    machine = machine_with(content)
    answer = machine.ask(tail("f", lines), silence_probe=None) if content else None
    if answer is None or answer.status == "error":
        return
    whole = content.removesuffix(b"\n").split(b"\n")
    assert [line.encode() for line in answer.message] == whole[-lines:]


def test_errors_and_silences() -> None:
    """L-13: everything but two errors is a silence."""
    machine = machine_with("é".encode() * 800)
    machine.files.write("empty", b"")
    machine.files.write("directory/", b"")
    machine.files.write("latin", b"caf\xe9\n")
    silent = [tail("empty", 1), tail("directory", 1), tail("f", None)]  # type: ignore[arg-type]
    silent += [Question("tail"), Question("ls", {"path": "."}), Question("tail", {"name": "f"})]
    for question in silent:
        with pytest.raises(Exception, match="did not answer"):
            machine.ask(question)
    assert message(machine, tail("latin", 1)) == "File is not a text file: latin"
    assert message(machine, tail("none", 1)) == "File not found: none"
    assert message(machine, tail("f", -1)) == ["é" * 512][1:]
    machine.files.remove_directory()
    with pytest.raises(Exception, match="did not answer"):
        machine.ask(LS)


def test_names_that_are_not_utf8() -> None:
    """L-13: names arrive as lone surrogates, and work when they are sent back."""
    machine = ModelMachine(Clock())
    machine.files.write("caf\udce9", b"x\n")
    assert message(machine, LS) == ["caf\udce9"]
    assert message(machine, tail("caf\udce9", 1)) == ["x"]


def test_following_repeats_what_the_runner_sends() -> None:
    """L-13: a line written in two halves arrives as two; a touched file repeats its last."""

    async def no_sleep(seconds: float) -> None:
        return None

    clock = Clock()
    files = WrittenFiles(clock)
    files.write("f", b"one\n")
    followed = Tail(files, no_sleep, "f")

    def step() -> Any:
        try:
            followed.execute().send(None)
        except StopIteration as stop:
            return stop.value

    assert step() == ["one"]
    assert step() is None
    clock.now_s += 1
    files.append("f", b"half of a ")
    assert step() == ["half of a "]
    clock.now_s += 1
    files.append("f", b"line\n")
    assert step() == ["line"]
    clock.now_s += 1
    files.append("f", b"")
    with pytest.raises(NoAnswer):
        step()


def test_a_tail_that_waits_for_its_file(cloud: FakeCloud, channels: LiveChannels) -> None:
    """L-13: `wait` waits on the machine for the file."""
    task = cloud.add_task(status="computation-started")
    files = cloud.machine_files(task)
    threading.Timer(0.3, files.write, ("later", b"here\n")).start()
    question = Question("tail", {"filename": "later", "lines": 1, "wait": True})
    answer = channels.machine(task).ask(question, PATIENT_S, lambda: False)
    assert answer is not None and answer.message == ["here"]


def test_running_tasks_write_logs_that_grow() -> None:
    """L-13: The embedded cloud has machines: its running tasks write logs that grow, and each
    is a beginning of the archive's member of that name."""
    now = [1_800_000_000.0]
    with EmbeddedCloud(clock=lambda: now[0]) as cloud:
        task = next(i for i, s in cloud.statuses().items() if s == "computation-started")
        channels = LiveChannels(Requests(cloud), turn_server=NO_SERVER)
        files = LiveFiles(
            channels.machine(task), is_live=lambda _: cloud.statuses()[task] in LIVE_STATUSES
        )
        first = {}
        for name in (b"stdout.txt", b"wave_gauges.csv", b"log/REEF3D_log.txt"):
            handle = files.open(name)
            first[name] = handle, handle.read(0, 1 << 20)
        assert b"residual" in first[b"stdout.txt"][1]
        now[0] += 300.0
        time.sleep(0.6)
        for handle, before in first.values():
            after = handle.update().read(0, 1 << 20)
            assert after.startswith(before) and len(after) > len(before)
        now[0] += 5_000.0
        assert cloud.statuses()[task] == "success"
        channels.close()
        stored = cloud.get_object(f"{task}/output.zip")
        assert stored is not None
        content = stored.source.read(0, stored.source.size)
        with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
            for name, (_, before) in first.items():
                assert archive.read(f"artifacts/{name.decode()}").startswith(before)


def test_the_machines_of_running_tasks_accept_offers(cloud: FakeCloud) -> None:
    """L-1, L-13: The machine of a task accepts connections in three statuses only."""
    running = ("computation-started", "computation-ended", "pending-kill")
    tasks = {}
    for status in sorted(KNOWN_STATUSES, key=running.__contains__):  # those that accept, last
        tasks[status] = task = cloud.add_task(status=status)
        offer = {"sender_id": "s", "receiver_id": task, "type": "offer", "sdp": ""}
        Requests(cloud)(SignallingRequest("POST", f"/tasks/{task}/offer", None, offer, BUSY_S))
    eventually(lambda: all(cloud.machine(tasks[status]).connections for status in running))
    assert {name for name, task in tasks.items() if cloud.machine(task).connections} == {*running}


def test_wrong_calls_of_signalling(cloud: FakeCloud) -> None:
    """L-13: 422 for wrong calls, 404 for no such task, 204 where nothing came."""
    task = cloud.add_task(status="computation-started")
    send = Requests(cloud)
    base = f"/tasks/{task}"

    def status(method: str, path: str, params: Any = None, body: Any = None) -> int:
        return send(SignallingRequest(method, path, params, body, BUSY_S))[0]

    assert status("POST", base + "/register", body={}) == 422
    assert status("POST", base + "/register", body=[]) == 422
    assert status("POST", base + "/offer", body={"sender_id": "s"}) == 422
    assert status("GET", base + "/message") == 422
    assert status("GET", base + "/message", {"client": "s", "block_s": "61"}) == 422
    assert status("GET", base + "/message", {"client": "s", "block_s": "0"}) == 204
    assert status("POST", "/tasks/none/register", body={"sender_id": "s"}) == 404
    assert json.loads(send(SignallingRequest("GET", "/nothing", None, None, BUSY_S))[1])
