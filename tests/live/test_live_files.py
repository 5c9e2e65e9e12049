"""The files of a running task, over a real data channel."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from taskfs.errors import (
    BadResponse,
    Interrupted,
    IsADirectory,
    NotADirectory,
    NotFound,
    StaleObject,
    TooLarge,
    Unavailable,
    Unsupported,
)
from taskfs.remote.live_channel import LiveChannels
from taskfs.remote.live_messages import LS, Answer, MachineGone, Question, SilenceProbe
from taskfs.tasks import live_file
from taskfs.tasks.last_write import LastWrite
from taskfs.tasks.live import LiveFiles
from taskfs.tasks.live_handle import LiveHandle
from taskfs.tasks.live_questions import LiveEnded
from tests.archive_harness import run_threads
from tests.fake_api import FakeCloud
from tests.live.conftest import BUSY_S, PATIENT_S, fails_early
from tests.live.machine_model import Clock, ModelMachine
from tests.mounts import eventually

NewFiles = Callable[..., LiveFiles]


def everything(files: LiveFiles, path: bytes) -> bytes:
    handle = files.open(path)
    try:
        return read_on(handle, 0)
    finally:
        handle.close()


def read_on(handle: LiveHandle, offset: int) -> bytes:
    found = b""
    while piece := handle.read(offset + len(found), 4096):
        found += piece
    return found


def lines_asked(questions: list[dict[str, Any]]) -> list[int]:
    """Return how many lines each tail among *questions* asked for."""
    return [each["args"]["lines"] for each in questions if each["type"] == "tail"]


def wait_for_growth(handle: LiveHandle, size: int) -> None:
    eventually(lambda: handle.size() > size)


def test_the_tree_of_names(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-1, L-4: `live/` shows the machine's tree, without absolute names and `..`."""
    written = cloud.machine_files(task)
    for name in ("a/b/c.txt", "empty/", "caf\udce9"):
        written.write(name, b"x\n")
    files = new_files(task)
    assert list(files.listing().entries) == [b"stdout.txt", b"log", b"a", b"empty", b"caf\xe9"]
    assert files.find(b"a/b/c.txt") is None
    assert files.find(b"empty") is not None
    with pytest.raises(NotFound):
        files.find(b"a/none")
    with pytest.raises(NotADirectory):
        files.find(b"stdout.txt/x")
    with pytest.raises(IsADirectory):
        files.open(b"log")
    assert everything(files, b"caf\xe9") == b"x"


def test_sizes_are_known_once_read(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-2: `stat` fetches no content: 0 until the file was read, then exact."""
    files = new_files(task)
    assert files.size(b"stdout.txt") == 0
    assert cloud.machine(task).questions == []
    assert everything(files, b"stdout.txt") == b"one\ntwo\nthree\n"
    assert files.size(b"stdout.txt") == 14
    cloud.machine_files(task).append("stdout.txt", b"four\n")
    time.sleep(0.6)
    assert files.size(b"stdout.txt") == 19


def test_a_follower_sees_new_lines(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-5, L-3: `tail -f` sees new lines; reads never block at the end of a file."""
    handle = new_files(task).open(b"stdout.txt")
    seen = read_on(handle, 0)
    written = cloud.machine_files(task)
    for line in (b"four\n", b"five\n\n -------\n"):
        written.append("stdout.txt", line)
        wait_for_growth(handle, len(seen))
        seen += read_on(handle, len(seen))
        assert seen == written.read("stdout.txt")
    began_s = time.monotonic()
    assert handle.read(len(seen), 4096) == b""
    assert time.monotonic() - began_s < BUSY_S
    assert cloud.machine(task).connections == 1


def test_a_new_line_is_seen_in_time() -> None:
    """L-5: A follower that looks each second sees a new line within 3 s."""
    clock = Clock()
    machine = ModelMachine(clock)
    machine.files.write("stdout.txt", b"one\n")
    handle = LiveFiles(machine, is_live=lambda _: True, clock=clock).open(b"stdout.txt")
    for age_s in (0.0, 0.3, 0.7):
        clock.now_s += age_s
        size = handle.size()
        machine.files.append("stdout.txt", b"a new line\n")
        clock.now_s += 1.0
        assert handle.size() == size + 11


def test_a_rewritten_file_is_stale(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-4: A file rewritten under an open handle is ESTALE there, and new for the next open."""
    files = new_files(task)
    handle = files.open(b"log/solver.log")
    cloud.machine_files(task).write("log/solver.log", b"something else\n")
    time.sleep(0.6)
    with pytest.raises(StaleObject):
        handle.read(5, 4096)
    assert everything(files, b"log/solver.log") == b"something else"
    cloud.machine_files(task).remove("log/solver.log")
    time.sleep(0.6)
    with pytest.raises(StaleObject):
        handle.update()


def test_empty_and_unreadable_files(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-7: a file counts as empty where a one-block probe stays silent while a later `ls` is
    answered. A binary file is EOPNOTSUPP, and a text file beside it is read."""
    written = cloud.machine_files(task)
    written.write("stderr.txt", b"")
    written.write("restart.bin", bytes(range(256)) * 100)
    files = new_files(task)
    assert everything(files, b"stderr.txt") == b""
    with pytest.raises(Unsupported, match="restart"):
        files.open(b"restart.bin")
    asked = len(cloud.machine(task).questions)
    with pytest.raises(Unsupported, match="restart"):
        files.open(b"restart.bin")
    assert len(cloud.machine(task).questions) <= asked + 1
    assert everything(files, b"stdout.txt") == b"one\ntwo\nthree\n"
    written.append("stderr.txt", b"warning\n")
    time.sleep(0.6)
    assert everything(files, b"stderr.txt") == b"warning\n"


def test_a_large_file(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-6: the end is served behind a hole, so `tail -n` and `tail -f` work; reading the start
    is EFBIG."""
    content = b"".join(b"step %09d\n" % number for number in range(600_000))
    cloud.machine_files(task).write("large.log", content)
    handle = new_files(task, 120.0).open(b"large.log")
    with pytest.raises(TooLarge):
        handle.read(0, 4096)
    size = handle.snapshot.size
    assert handle.read(size - 4096, 4096) == content[-4097:-1]
    cloud.machine_files(task).append("large.log", b"the end\n\n")
    wait_for_growth(handle, size)
    assert read_on(handle, size) == b"\nthe end\n\n"


def test_a_failure_is_remembered(
    cloud: FakeCloud, channels: LiveChannels, new_files: NewFiles, task: str
) -> None:
    """L-8: silent: ETIMEDOUT, remembered so that a walk does not wait for each name; never an
    empty directory, never a false ENOENT."""
    files = new_files(task, channels=channels)
    files.listing()
    channels.question_timeout_s = 0.5
    cloud.machine(task).faults.add("silence", times=None)
    time.sleep(1.1)
    asked = len(cloud.machine(task).questions)
    for path in (b"stdout.txt", b"log/solver.log", b"none"):
        with pytest.raises(Unavailable):
            files.open(path)
    with pytest.raises(Unavailable):
        files.listing()
    assert len(cloud.machine(task).questions) == asked + 1


def test_an_unreachable_machine(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-8: Unreachable: ETIMEDOUT within `--timeout`."""
    cloud.machine(task).ignores_offers = True
    files = new_files(task, 2.0)
    with fails_early():
        files.listing()


def test_nonsense_in_place_of_a_listing(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-8: Answers that make no sense: EIO."""
    files = new_files(task)
    for text in (
        '{"status": "success", "message": "a.txt"}',
        '{"status": "success", "message": [1]}',
        '{"status": "success", "message": [{"a": 1}]}',
        '{"status": "error", "message": "no"}',
    ):
        cloud.machine(task).faults.add("nonsense", "ls", text=text)
        with pytest.raises(BadResponse):
            files.listing()
    names = '["../x", "/etc/passwd", "", ".", "..", "a\\u0000b", "\\ud800", "ok", {"..": []}]'
    answer = '{"status": "success", "message": %s}' % names  # noqa: UP031
    cloud.machine(task).faults.add("nonsense", "ls", text=answer)
    assert list(files.listing().entries) == [b"ok"]


@pytest.mark.parametrize("message", ["[1]", '"text"', "null", '["a\\nb"]', '["\\ud800"]'])
def test_nonsense_in_place_of_lines(
    cloud: FakeCloud, new_files: NewFiles, task: str, message: str
) -> None:
    files = new_files(task)
    text = '{"status": "success", "message": %s}' % message  # noqa: UP031
    cloud.machine(task).faults.add("nonsense", "tail", text=text, times=None)
    with pytest.raises(BadResponse):
        files.open(b"stdout.txt")


def test_the_end_of_the_task(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-8: "File not found" counts only after the status was looked at."""
    files = new_files(task)
    handle = files.open(b"stdout.txt")
    cloud.machine_files(task).remove("stdout.txt")
    cloud.set_status(task, "success")
    time.sleep(0.6)
    with fails_early(LiveEnded):
        handle.read(14, 100)


def test_a_goodbye_does_not_end_the_task(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-8: a connection that ends while the task runs is made anew within the call."""
    files = new_files(task)
    files.listing()
    cloud.machine(task).faults.add("goodbye", times=2)
    assert everything(files, b"stdout.txt") == b"one\ntwo\nthree\n"
    assert cloud.machine(task).connections == 3
    cloud.machine(task).faults.add("goodbye", times=None)
    time.sleep(1.1)
    with pytest.raises(Unavailable):
        files.listing()
    assert cloud.machine(task).connections == 5


def test_a_goodbye_that_several_readers_meet(
    cloud: FakeCloud, new_files: NewFiles, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L-8: a connection that ends is made anew, once, for all that were reading."""
    no_probe = SilenceProbe(LS, after_s=PATIENT_S, silence_s=PATIENT_S)
    monkeypatch.setattr(live_file, "FIRST_SILENCE_PROBE", no_probe)
    names = [b"%d.log" % number for number in range(6)]
    for name in names:
        cloud.machine_files(task).write(name.decode(), name + b"\n")
    files = new_files(task)
    files.listing()
    machine = cloud.machine(task)
    machine.faults.add("late", "tail", times=None, seconds=PATIENT_S)
    asked = len(machine.questions)
    found: dict[bytes, bytes] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: everything(files, name)}))
        for name in names
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(machine.questions) >= asked + len(names))
    machine.faults.clear()
    cloud.hang_up(task)
    for thread in threads:
        thread.join()
    assert found == {name: name for name in names}
    assert machine.connections == 2


def test_the_machine_says_goodbye_when_the_task_ends(
    cloud: FakeCloud, new_files: NewFiles, task: str
) -> None:
    """L-13: the embedded cloud's machine closes its connections when its task has ended."""
    files = new_files(task)
    files.listing()
    cloud.set_status(task, "success")
    eventually(lambda: cloud.machine(task).open_connections == 0)


def test_top_and_last_write(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-12: `top`, and how long ago a running task last wrote anything."""
    files = new_files(task)
    assert "COMMAND" in files.top()
    last = files.last_write()
    assert last.path is not None and last.path.endswith("/artifacts/log/solver.log")
    assert last.age_s is not None and 0 <= last.age_s < 60
    for name in ("stdout.txt", "log/solver.log"):
        cloud.machine_files(task).remove(name)
    assert files.last_write() == LastWrite(None, None, None)
    no_time = '{"most_recent_file": "x", "time_since_last_mod": 1}'
    for message in ("[]", '{"most_recent_file": 1}', '{"most_recent_file": "x"}', no_time):
        text = '{"status": "success", "message": %s}' % message  # noqa: UP031
        cloud.machine(task).faults.add("nonsense", text=text)
        with pytest.raises(BadResponse):
            files.last_write()


@pytest.mark.parametrize(
    ("path", "age", "written"),
    [
        ("x", "1" + 400 * "0", "1"),
        ("x", "1", "1" + 400 * "0"),
        ("x", "1e999", "1"),
        ("x", "1", "NaN"),
        (r"\ud800", "1", "1"),
    ],
    ids=["age", "time", "infinite", "no number", "surrogate"],
)
def test_a_last_write_that_no_machine_has(
    cloud: FakeCloud, new_files: NewFiles, task: str, path: str, age: str, written: str
) -> None:
    """L-8, V-10: A last write whose time or path cannot be is a wrong answer, which ends no
    events."""
    message = (
        f'{{"most_recent_file": "{path}", "time_since_last_mod": {age}, '
        f'"most_recent_timestamp": {written}}}'
    )
    text = f'{{"status": "success", "message": {message}}}'
    cloud.machine(task).faults.add("nonsense", text=text)
    with pytest.raises(BadResponse):
        new_files(task).last_write()


def test_readers_of_one_file_at_once(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-10: One connection for all readers."""
    files = new_files(task, clock=Clock())  # the answers stay young
    found: list[bytes] = []
    run_threads([lambda: found.append(everything(files, b"stdout.txt"))] * 16)
    assert found == [b"one\ntwo\nthree\n"] * 16
    assert sum(q["type"] == "tail" for q in cloud.machine(task).questions) < 6


def test_a_minute_of_growth(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-4, L-5: the returned bytes are those that the machine writes, block-buffered or not."""
    files = new_files(task)
    written = cloud.machine_files(task)
    written.write("run.csv", b"")
    stop = threading.Event()

    def write() -> None:
        text = "".join(f"{n / 10:.1f},größe {n},0.5\n" for n in range(4000)).encode()
        for start in range(0, len(text), 997):
            written.append("run.csv", text[start : start + 997])
            stop.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    seen, handle = b"", files.open(b"run.csv")
    while writer.is_alive():
        seen += read_on(handle, len(seen))
        assert (written.read("run.csv") or b"").startswith(seen)
        time.sleep(0.3)
    time.sleep(0.6)
    seen += read_on(handle, len(seen))
    assert seen + b"\n" == written.read("run.csv")


def test_the_content_that_is_kept_is_bounded() -> None:
    """L-2: once a file was read, its size is known, also when its content is no longer kept."""
    clock = Clock()
    machine = ModelMachine(clock)
    files = LiveFiles(machine, is_live=lambda _: True, clock=clock)
    content = b"".join(b"row %09d\n" % number for number in range(240_000))
    names = [b"file%d.log" % number for number in range(14)]
    for name in names:
        machine.files.write(name.decode(), name + b"\n" + content)
    for name in names:
        files.open(name).close()
    asked = len(machine.questions)
    assert files.size(names[0]) == len(content) + 9  # the last newline is not reported
    assert len(machine.questions) == asked
    clock.now_s += 20.0
    handle = files.open(names[0])
    assert handle.read(0, 18) == b"file0.log\nrow 0000"
    assert len(machine.questions) > asked + 1


def test_a_removed_file_is_not_found() -> None:
    """L-8: "File not found" counts where the task is live: ENOENT; else the task has ended."""
    clock = Clock()
    machine = ModelMachine(clock)
    machine.files.write("a.log", b"x\n")
    live = True
    files = LiveFiles(machine, is_live=lambda _: live, clock=clock)
    files.listing()
    machine.files.remove("a.log")  # after the listing, which is believed for a second
    with pytest.raises(NotFound):
        files.open(b"a.log")
    live = False
    with pytest.raises(LiveEnded):
        files.open(b"a.log")


class LostMachine:
    """Is gone at the first question, and cannot be reached again."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waited_s: list[float] = []

    def ask(
        self,
        question: Question,
        timeout_s: float,
        interrupted: Callable[[], bool],
        silence_probe: SilenceProbe | None = None,
    ) -> Answer | None:
        if not self.waited_s:
            self.waited_s.append(0.0)
            raise MachineGone("gone")
        self.waited_s.append(timeout_s)
        self.clock.now_s += timeout_s
        raise Unavailable("not reached")


class SilentMachine:
    """Does not answer, and lets the reader be interrupted meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def ask(
        self,
        question: Question,
        timeout_s: float,
        interrupted: Callable[[], bool],
        silence_probe: SilenceProbe | None = None,
    ) -> Answer | None:
        deadline_s = self.clock.now_s + timeout_s
        while self.clock.now_s < deadline_s:
            if interrupted():
                raise Interrupted("interrupted")
            self.clock.now_s += 0.2
        raise Unavailable("not reached")


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_first_look_after_the_end_is_over_soon(has_ended: bool) -> None:
    """L-9: A look at a task that has just ended does not wait for the whole `--timeout`; at one
    that runs, it costs one more request for its status."""
    clock = Clock()
    asked_at_s: list[float] = []

    def is_live(_: float) -> bool:
        asked_at_s.append(clock.now_s)
        return not has_ended

    files = LiveFiles(SilentMachine(clock), is_live=is_live, clock=clock)
    began_s = clock.now_s
    with pytest.raises(LiveEnded if has_ended else Unavailable):
        files.listing()
    assert len(asked_at_s) == (1 if has_ended else 2)
    assert asked_at_s[0] - began_s < 9.0
    assert clock.now_s == (asked_at_s[0] if has_ended else asked_at_s[1])


def test_a_machine_that_is_gone_before_the_status_changes() -> None:
    """L-9: The status is asked for again while there is no new connection, so a reader learns in
    time that the task has ended."""
    clock = Clock()
    machine = LostMachine(clock)
    ends_s = clock.now_s + 10.0
    files = LiveFiles(machine, is_live=lambda _: clock.now_s < ends_s, clock=clock)
    with pytest.raises(LiveEnded):
        files.listing()
    assert clock.now_s - ends_s < 8.0
    machine = LostMachine(clock)
    files = LiveFiles(machine, is_live=lambda _: True, clock=clock)
    began_s = clock.now_s
    with pytest.raises(Unavailable):
        files.listing()
    assert 30.0 <= clock.now_s - began_s < 31.0


def test_a_failure_is_forgotten_in_time() -> None:
    """L-8: a failure is remembered for 10 s; then the machine is asked again."""
    clock = Clock()
    machine = ModelMachine(clock)
    machine.files.write("a.log", b"x\n")
    is_silent = True

    def answer() -> None:
        if is_silent:
            raise Unavailable("silent")

    machine.before_answer = answer
    files = LiveFiles(machine, is_live=lambda _: True, clock=clock)
    for after_s in (0.0, 4.0, 5.9):
        clock.now_s += after_s
        with pytest.raises(Unavailable):
            files.listing()
        assert len(machine.questions) == 1
    is_silent = False
    clock.now_s += 0.2
    assert everything(files, b"a.log") == b"x"


def test_nothing_is_asked_between_two_reads(
    cloud: FakeCloud, new_files: NewFiles, task: str
) -> None:
    """L-3: an open file is updated only by a later stat or read."""
    handle = new_files(task).open(b"stdout.txt")
    cloud.machine_files(task).append("stdout.txt", b"four\n")
    asked = len(cloud.machine(task).questions)
    time.sleep(1.5)
    assert len(cloud.machine(task).questions) == asked
    assert handle.read(0, 14) == b"one\ntwo\nthree\n"
    assert len(cloud.machine(task).questions) == asked
    assert handle.read(14, 100) == b"four\n"


def test_following_a_log_costs_its_new_lines(
    cloud: FakeCloud, new_files: NewFiles, task: str
) -> None:
    """L-5, L-6: One block is asked for first. Following costs the new bytes and an overlap, not the
    whole file."""
    written = cloud.machine_files(task)
    lines = [b"step %06d residual %09d\n" % (i, i * 7919 % 10**9) for i in range(30_000)]
    written.write("stdout.txt", b"".join(lines))
    handle = new_files(task).open(b"stdout.txt")
    questions = cloud.machine(task).questions
    asked = lines_asked(questions)
    assert asked[0] == -1 and asked[-1] > len(lines)
    before = len(questions)
    for number in range(4):
        size = handle.snapshot.size
        written.append("stdout.txt", b"%d: the next line\n" % number)
        wait_for_growth(handle, size)
    assert read_on(handle, 0) == written.read("stdout.txt")
    polls = lines_asked(questions[before:])
    assert len(polls) >= 4 and max(polls) < len(lines) / 10


def test_equal_lines_have_more_asked_for(cloud: FakeCloud, new_files: NewFiles, task: str) -> None:
    """L-4: where equal lines make the overlap ambiguous, more is asked for, up to the whole."""
    written = cloud.machine_files(task)
    written.write("stdout.txt", b"waiting for the license\n" * 5000)
    handle = new_files(task).open(b"stdout.txt")
    before = len(cloud.machine(task).questions)
    written.append("stdout.txt", b"waiting for the license\n" * 321)
    wait_for_growth(handle, handle.snapshot.size)
    assert read_on(handle, 0) == b"waiting for the license\n" * 5321
    asked = lines_asked(cloud.machine(task).questions[before:])
    assert len(asked) > 1 and max(asked) > 5321


def test_a_newline_that_is_not_told_is_not_invented(
    cloud: FakeCloud, new_files: NewFiles, task: str
) -> None:
    """L-4: The last newline is there at once in `stdout.txt` and `stderr.txt` at the top, in other
    files once something follows."""
    written = cloud.machine_files(task)
    logs = ("stdout.txt", "stderr.txt", "data.csv", "log/stdout.txt")
    for name in logs:
        written.write(name, b"one\n")
    files = new_files(task)
    assert [everything(files, name.encode()) for name in logs] == [b"one\n"] * 2 + [b"one"] * 2
    for name in logs[2:]:
        written.append(name, b"two\n\n")
    time.sleep(0.6)
    assert [everything(files, name.encode()) for name in logs[2:]] == [b"one\ntwo\n\n"] * 2
