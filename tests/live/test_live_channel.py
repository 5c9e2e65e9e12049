"""The data channel to a machine: connections, questions, and the faults of both."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taskfs.errors import AccessDenied, BadResponse, Interrupted, Unavailable, Unreachable
from taskfs.remote import live_connection, live_servers
from taskfs.remote.api_client import TaskClient
from taskfs.remote.live_channel import LiveChannels, TaskMachine
from taskfs.remote.live_connection import MAX_ABANDONED, announce_size
from taskfs.remote.live_messages import (
    LAST_MODIFIED_FILE,
    LS,
    TOP,
    Answer,
    MachineGone,
    Question,
    SilenceProbe,
    tail,
)
from taskfs.remote.live_servers import split_address
from tests.archive_harness import run_threads
from tests.fake_api import FakeCloud
from tests.live.conftest import (
    BUSY_S,
    NO_SERVER,
    PATIENT_S,
    NewChannels,
    fails_early,
    question_timeout,
)
from tests.mounts import eventually
from tests.threads import no_new_threads

ROOT = Path(__file__).parents[2]
SILENCE_PROBE = SilenceProbe(LS, after_s=0.2, silence_s=0.3)


def ask(
    machine: TaskMachine,
    question: Question,
    timeout_s: float = PATIENT_S,
    silence_probe: SilenceProbe | None = None,
) -> Answer:
    answer = machine.ask(question, timeout_s, lambda: False, silence_probe)
    assert answer is not None
    return answer


def test_four_questions_on_one_connection(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-10: One connection per task for all readers."""
    machine = channels.machine(task)
    assert ask(machine, LS).message == ["stdout.txt", {"log": ["solver.log"]}]
    assert ask(machine, tail("stdout.txt", 2)).message == ["two", "three"]
    assert "PID" in ask(machine, TOP).message
    assert ask(machine, LAST_MODIFIED_FILE).message["most_recent_file"].endswith("solver.log")
    assert ask(machine, tail("none", 1)) == Answer("error", "File not found: none")
    assert ask(machine, Question("what")).status == "invalid"
    assert cloud.machine(task).connections == 1
    assert all(question["follow"] is False for question in cloud.machine(task).questions)


def test_a_question_after_the_system_had_no_thread(
    channels: LiveChannels, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-55: A first question whose thread did not start does not stop the next one."""
    machine = channels.machine(task)
    with no_new_threads(monkeypatch), pytest.raises(RuntimeError, match="can't start"):
        ask(machine, LS)
    assert ask(machine, LS).message == ["stdout.txt", {"log": ["solver.log"]}]


def test_many_readers_share_the_connection(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-10: One per task for all readers, several channels."""
    machine = channels.machine(task)
    found: list[tuple[int, Answer]] = []

    def read(count: int) -> None:
        found.append((count, ask(machine, tail("stdout.txt", count))))

    run_threads([partial(read, count) for count in (1, 2, 3) * 10])
    lines = ["one", "two", "three"]
    assert len(found) == 30
    assert all(answer.message == lines[-n:] for n, answer in found)
    assert cloud.machine(task).connections == 1


def test_nothing_goes_out_before_a_question(cloud: FakeCloud, task: str) -> None:
    """L-1: taskfs connects, and imports aiortc, only when a program looks into `live/`."""
    program = (
        "import sys, threading\nfrom taskfs.remote.live_channel import LiveChannels\n"
        "from taskfs.tasks.live import LiveFiles\n"
        "LiveChannels(lambda *a, **k: sys.exit(1)).machine('t')\n"
        "sys.exit('aiortc' in sys.modules or threading.active_count() > 1)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_without_the_extra(cloud: FakeCloud, task: str) -> None:
    """L-11: without it, looking into `live/` is EOPNOTSUPP with the fix."""
    program = (
        "import sys\nsys.modules['aiortc'] = None\n"
        "from taskfs.errors import Unsupported\n"
        "from taskfs.remote.live_channel import LiveChannels\n"
        "from taskfs.remote.live_messages import LS\n"
        "channels = LiveChannels(lambda *a, **k: sys.exit(1))\n"
        "try: channels.machine('t').ask(LS, 5, lambda: False)\n"
        "except Unsupported as exc: sys.exit(0 if 'aiortc>=1.9' in str(exc) else 3)\n"
        "sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_silence_is_proved_by_a_silence_probe(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-7: a one-block probe stays silent while a later `ls` on another channel is answered."""
    cloud.machine_files(task).write("empty", b"")
    machine = channels.machine(task)
    for name in ("empty", "log"):
        assert machine.ask(tail(name, -1), PATIENT_S, lambda: False, SILENCE_PROBE) is None
    assert ask(machine, tail("stdout.txt", 1), silence_probe=SILENCE_PROBE).message == ["three"]
    assert cloud.machine(task).connections == 1


def test_a_question_without_an_answer(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-8: silent: ETIMEDOUT; a question has its own, shorter timeout."""
    machine = channels.machine(task)
    ask(machine, LS)
    cloud.machine(task).faults.add("silence", times=None)
    with question_timeout(channels, 0.5), fails_early():
        ask(machine, tail("stdout.txt", -1), silence_probe=SILENCE_PROBE)
    cloud.machine(task).faults.clear()
    assert ask(machine, tail("stdout.txt", 1)).message == ["three"]


def test_a_late_answer_is_not_mistaken_for_another(
    cloud: FakeCloud, new_channels: NewChannels, task: str
) -> None:
    """L-10: a channel with an unanswered question is not used again."""
    machine = new_channels().machine(task)
    ask(machine, LS)
    late = cloud.machine(task).faults.add("late", "tail", seconds=PATIENT_S)
    question = tail("stdout.txt", 1)
    assert machine.ask(question, PATIENT_S, lambda: False, SILENCE_PROBE) is None
    late.released.set()
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        assert ask(machine, tail("log/solver.log", 1)).message == ["residual 2"]
        time.sleep(0.05)
    assert cloud.machine(task).connections == 1


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[1]", '{"status": "odd"}', "[" * 100_000, '{"message": []}']
)
def test_nonsense_is_a_bad_response(
    cloud: FakeCloud, channels: LiveChannels, task: str, text: str
) -> None:
    """L-8: Answers that make no sense: EIO."""
    cloud.machine(task).faults.add("nonsense", text=text)
    machine = channels.machine(task)
    with pytest.raises(BadResponse):
        ask(machine, LS)
    assert ask(machine, LS).status == "success"


def test_a_goodbye_in_the_middle(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-8, L-9: a goodbye frees the reader at once; the next question connects anew."""
    machine = channels.machine(task)
    ask(machine, LS)
    cloud.machine(task).faults.add("goodbye")
    with fails_early(MachineGone):
        ask(machine, LS)
    assert ask(machine, LS).status == "success"
    assert cloud.machine(task).connections == 2


def test_a_goodbye_between_two_questions(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    machine = channels.machine(task)
    ask(machine, LS)
    cloud.hang_up(task)
    eventually(lambda: channels.open_connections == 0 or _asked(machine))
    assert ask(machine, LS).status == "success"


def _asked(machine: TaskMachine) -> bool:
    try:
        return ask(machine, LS).status == "success"
    except MachineGone:
        return False


def test_a_machine_that_is_gone_without_a_goodbye(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-8: a machine gone without a word is ETIMEDOUT within the question's timeout."""
    machine = channels.machine(task)
    ask(machine, LS)
    cloud.machine(task).faults.add("vanish")
    with question_timeout(channels, 1.0), fails_early():
        ask(machine, LS)
    assert ask(machine, LS).status == "success"


def test_a_large_answer_arrives(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-6: the offer announces what we take, or the machine would send no large answer."""
    content = b"a line of the log\n" * 100_000
    cloud.machine_files(task).write("large", content)
    lines = ask(channels.machine(task), tail("large", 200_000)).message
    assert "\n".join(lines).encode() == content[:-1]


def test_a_large_answer_that_takes_long(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-8: a question has a timeout of its own, and more time while its answer arrives."""
    content = b"a line of the log\n" * 220_000
    cloud.machine_files(task).write("large", content)
    machine = channels.machine(task)
    ask(machine, LS)
    found: list[Answer] = []
    with question_timeout(channels, 1.0):  # an answer takes 2 s, in which a busy machine may pause
        for _ in range(5):
            with contextlib.suppress(Unavailable):
                found.append(ask(machine, tail("large", 300_000)))
                break
    assert "\n".join(found[0].message).encode() == content[:-1]
    cloud.machine(task).faults.add("silence")
    with question_timeout(channels, 0.5), fails_early():
        ask(machine, LS)


def test_other_answers_give_a_silent_question_a_bounded_time(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-8: the answer to another question gives a silent one more time, within `--timeout`."""
    cloud.machine_files(task).write("large", b"a line of the log\n" * 40_000)
    machine = channels.machine(task)
    ask(machine, LS)
    cloud.machine(task).faults.add("silence", "ls")
    is_over = threading.Event()

    def read_on() -> None:
        while not is_over.is_set():
            with contextlib.suppress(Unavailable):  # a busy machine may take longer
                ask(machine, tail("large", 50_000))

    with question_timeout(channels, 1.0):
        reader = threading.Thread(target=read_on)
        reader.start()
        try:
            with fails_early():
                ask(machine, LS, 3.0)
        finally:
            is_over.set()
            reader.join()
    eventually(lambda: _answers(machine))


def test_an_answer_larger_than_announced(
    cloud: FakeCloud, channels: LiveChannels, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-8: an answer larger than announced is EIO or ETIMEDOUT, and the next one arrives."""
    monkeypatch.setattr(live_connection, "MAX_MESSAGE_BYTES", 1 << 20)  # 16 MiB take seconds
    machine = channels.machine(task)
    ask(machine, LS)
    cloud.machine(task).faults.add("oversize", size=1 << 20)
    with question_timeout(channels, 3.0), pytest.raises((BadResponse, Unavailable)):
        ask(machine, LS)
    eventually(lambda: _answers(machine))


def _answers(machine: TaskMachine) -> bool:
    try:
        return ask(machine, LS, 10.0).status == "success"
    except Unavailable:
        return False


def test_signalling_that_fails_once(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-8: signalling is tried again while there is time."""
    for path in ("/register", "/offer", "/message"):
        cloud.faults.add("status", path=path, status=503)
    assert ask(channels.machine(task), LS).status == "success"


@pytest.mark.parametrize("kind", ["status", "reset"])
def test_signalling_by_the_clients_requests(cloud: FakeCloud, task: str, kind: str) -> None:
    """L-8, L-10: the API client's requests carry the key, and are repeated where they fail."""
    options: dict[str, Any] = {"status": 503} if kind == "status" else {}
    for path in ("/register", "/offer", "/message"):
        cloud.faults.add(kind, path=path, **options)
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=BUSY_S)
    channels = LiveChannels(client.signal, turn_server=NO_SERVER)
    try:
        assert ask(channels.machine(task), LS).status == "success"
    finally:
        channels.close()
        client.close()


def test_a_machine_that_answers_late(cloud: FakeCloud, task: str) -> None:
    """L-8: one call of signalling waits as long as the machine may take."""
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=6.0)
    channels = LiveChannels(client.signal, turn_server=NO_SERVER)
    cloud.faults.add("stall", path="/message", seconds=4.0)
    try:
        assert ask(channels.machine(task), LS).status == "success"
        assert sum(r.path.endswith("/message") for r in cloud.requests) == 1
    finally:
        channels.close()
        client.close()


@pytest.mark.parametrize("kind", ["status", "reset", "stall"])
def test_signalling_that_fails(
    cloud: FakeCloud, new_channels: NewChannels, task: str, kind: str
) -> None:
    """L-8: Unreachable: ETIMEDOUT within `--timeout`."""
    options: dict[str, Any] = {"status": 503} if kind == "status" else {}
    cloud.faults.add(kind, path="/offer", times=None, **options)
    machine = new_channels(connect_timeout_s=2.0).machine(task)
    with fails_early():
        ask(machine, LS, 2.0)


def test_signalling_that_cannot_succeed(cloud: FakeCloud, task: str) -> None:
    """X-22, L-8: A failure that no retry can change is ETIMEDOUT at once."""
    client = TaskClient(cloud.api_url.replace("http:", "https:"), cloud.api_key)
    channels = LiveChannels(client.signal, turn_server=NO_SERVER, connect_timeout_s=PATIENT_S)
    try:
        with fails_early(Unreachable):
            ask(channels.machine(task), LS, PATIENT_S)
    finally:
        channels.close()
        client.close()


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"type": "answer"}'])
def test_signalling_that_makes_no_sense(
    cloud: FakeCloud, channels: LiveChannels, task: str, body: bytes
) -> None:
    """L-8: Answers that make no sense: EIO."""
    cloud.faults.add("body", path="/message", content=body)
    with pytest.raises(BadResponse):
        ask(channels.machine(task), LS)


def test_a_description_that_makes_no_sense(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    cloud.faults.add("json", path="/message", value={"type": "answer", "sdp": "v=9\r\nodd"})
    with pytest.raises((BadResponse, Unavailable)):
        ask(channels.machine(task), LS, 3.0)


def test_a_refused_key(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-8: a refused key is EACCES."""
    cloud.faults.add("status", path="/register", status=403)
    with pytest.raises(AccessDenied):
        ask(channels.machine(task), LS)


def test_an_unresponsive_machine_delays_no_other(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-8: A silent machine holds up no other task."""
    deaf = [cloud.add_task(status="computation-started") for _ in range(12)]
    for other in deaf:
        cloud.machine(other).ignores_offers = True
    with ThreadPoolExecutor(len(deaf)) as pool:
        asked = [pool.submit(ask, channels.machine(other), LS) for other in deaf]
        assert ask(channels.machine(task), LS).status == "success"
        assert not any(question.done() for question in asked)
        channels.close()
        for question in asked:
            with pytest.raises(Unavailable):
                question.result(BUSY_S)


def test_an_interrupt_frees_the_reader(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-8: Ctrl+C frees the reader within 1 s."""
    cloud.machine(task).ignores_offers = True
    interrupted = threading.Event()
    threading.Timer(0.3, interrupted.set).start()
    with fails_early(Interrupted):
        channels.machine(task).ask(LS, PATIENT_S, interrupted.is_set)


def test_a_silent_server_does_not_delay(
    cloud: FakeCloud, new_channels: NewChannels, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-8: A STUN server that does not answer does not delay a machine that is reachable
    without it."""
    monkeypatch.setattr(live_servers, "_PROBE_S", PATIENT_S)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        channels = new_channels(turn_server=server, idle_time_s=0.1)
        start_s = time.monotonic()
        ask(channels.machine(task), LS)
        assert time.monotonic() - start_s < BUSY_S  # a probe of the server lasts PATIENT_S
        silent.settimeout(BUSY_S)
        assert len(silent.recv(100)) == 20


def test_the_servers_address_comes_from_the_environment(
    cloud: FakeCloud, new_channels: NewChannels, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-10: `INDUCTIVA_TURN_SERVER_URL` is honoured."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("INDUCTIVA_TURN_SERVER_URL", address)
        ask(new_channels(turn_server=None).machine(task), LS)
        server.settimeout(BUSY_S)
        assert len(server.recv(100)) == 20
    assert split_address("turn.example.org") == ("turn.example.org", 3478)
    assert split_address("turn.example.org:99") == ("turn.example.org", 99)


def test_an_idle_connection_is_closed(
    cloud: FakeCloud, new_channels: NewChannels, task: str
) -> None:
    """L-10: closed after `TASKFS_LIVE_IDLE_TIME` and at unmount."""
    channels = new_channels(idle_time_s=0.3)
    ask(channels.machine(task), LS)
    assert cloud.machine(task).connections == 1
    eventually(lambda: cloud.machine(task).open_connections == 0)
    assert channels.open_connections == 0
    ask(channels.machine(task), LS)
    assert cloud.machine(task).connections == 2


def test_close_says_goodbye_and_ends_the_thread(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-10: closed at unmount."""
    before = set(threading.enumerate())
    ask(channels.machine(task), LS)
    [thread] = [each for each in {*threading.enumerate()} - before if each.name == "taskfs-live"]
    channels.close()
    eventually(lambda: cloud.machine(task).open_connections == 0)
    eventually(lambda: not thread.is_alive())


def test_a_question_that_connects_fails_when_the_channels_are_closed(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-10: a question during an unmount fails as if the machine had gone."""
    cloud.faults.add("stall", path="/message", seconds=4.0)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, channels.machine(task), LS)
        eventually(lambda: any("/message" in record.path for record in cloud.requests))
        channels.close()
        with pytest.raises(Unavailable):
            asked.result(BUSY_S)


def test_no_secret_in_a_log(
    cloud: FakeCloud, channels: LiveChannels, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    """L-10: no key, ICE password or SDP in a log."""
    with caplog.at_level(logging.DEBUG):
        ask(channels.machine(task), LS)
        cloud.machine(task).faults.add("goodbye")
        with pytest.raises(MachineGone):
            ask(channels.machine(task), LS)
        channels.close()
    for secret in (cloud.api_key, "ice-pwd", "a=candidate", "m=application", "fingerprint"):
        assert secret not in caplog.text


def test_channels_without_an_answer_are_bounded(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-10: channels whose question was never answered pile up, and a new connection replaces
    the old one before they are many."""
    cloud.machine_files(task).write("empty", b"")
    machine = channels.machine(task)
    at_once = SilenceProbe(LS, after_s=0.0, silence_s=0.0)
    for _ in range(MAX_ABANDONED + 5):
        assert machine.ask(tail("empty", -1), PATIENT_S, lambda: False, at_once) is None
    assert cloud.machine(task).connections == 2
    eventually(lambda: cloud.machine(task).open_connections == 1)


def test_the_announced_size() -> None:
    """L-6: The offer announces 16 MiB, in place of the size that aiortc announces."""
    line = "a=max-message-size:16777216"
    assert (
        announce_size("v=0\r\na=max-message-size:65536\r\na=x\r\n") == f"v=0\r\n{line}\r\na=x\r\n"
    )
    assert announce_size("v=0\r\n") == f"v=0\r\n{line}\r\n"


def test_a_name_that_is_not_utf8(cloud: FakeCloud, channels: LiveChannels, task: str) -> None:
    """L-4: Names are handled as bytes."""
    name = b"caf\xe9.log".decode("utf-8", "surrogateescape")
    cloud.machine_files(task).write(name, b"text\n")
    machine = channels.machine(task)
    assert name in ask(machine, LS).message
    assert ask(machine, tail(name, 1)).message == ["text"]


LOOPBACK_ALONE = """
import subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from taskfs.remote.live_channel import LiveChannels
from taskfs.remote.live_messages import LS
from tests.fake_api import FakeCloud
from tests.live.conftest import NO_SERVER, Requests
with FakeCloud() as cloud:
    task = cloud.add_task(status="computation-started")
    cloud.machine_files(task).write("a", b"b")
    channels = LiveChannels(Requests(cloud), turn_server=NO_SERVER)
    answer = channels.machine(task).ask(LS, 30.0, lambda: False)
    assert answer.message == ["a"], answer
    channels.close()
"""


def test_a_machine_without_any_network() -> None:
    """L-13: reachable over a real data channel on loopback, in a network namespace of its own
    where there is nothing else."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK_ALONE]
    done = subprocess.run(
        command, cwd=ROOT, timeout=60, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_child_has_a_connection_of_its_own(
    cloud: FakeCloud, channels: LiveChannels, task: str
) -> None:
    """L-10: a child of fork(2) neither uses nor closes the connection of its parent."""
    machine = channels.machine(task)
    ask(machine, LS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, as in a user's
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            answer = machine.ask(LS, BUSY_S, lambda: False)
            channels.close()
            os._exit(0 if answer is not None else 1)
        os._exit(2)
    eventually(
        lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None,
        PATIENT_S,
    )
    assert os.waitpid(child, 0)[1] == 0
    assert ask(machine, LS).status == "success"
    assert cloud.machine(task).connections == 2
