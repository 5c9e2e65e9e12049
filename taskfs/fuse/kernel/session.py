"""`Session`: serves one mount, from the kernel's first request to its last.

One thread at a time reads requests, and answers them until one has to wait: see `lead`. Another
thread then takes its place; up to MAX_IDLE of them stay after a burst. The threads are Python's
own, so thread-local data survives, and they are daemons, so a request that hangs cannot keep the
process from ending.
"""

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from taskfs.errors import MountError, NotFound, ProtocolRefused, TaskFSError
from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.dispatch import NO_ANSWER, Answer, Dispatch
from taskfs.fuse.kernel.invalidation import Invalidator
from taskfs.fuse.kernel.lead import Lead
from taskfs.fuse.kernel.name_reader import NameReader
from taskfs.fuse.kernel.protocol import (
    HEADER_IN,
    HEADER_OUT,
    INIT_IN,
    INIT_OUT,
    INTERRUPT_IN,
    MAJOR,
    MINOR,
    NOTIFY_STORE,
    NOTIFY_STORE_OUT,
    OLDEST_MINOR,
    PAGE,
    Feature,
    Opcode,
    Packer,
)
from taskfs.fuse.operations import TaskOperations
from taskfs.support.buffers import Buffer
from taskfs.support.wait_hook import call_before_waits

log = logging.getLogger(__name__)

MAX_WRITE: Final = 64 << 10  # bytes of a write; the longest extended attribute is as long
MAX_REQUEST: Final = MAX_WRITE + PAGE  # bytes of the longest request, with its header
MAX_READ: Final = 1 << 20  # bytes of a read; the kernel's own limit is 256 pages
MAX_IDLE: Final = 16  # threads that wait for the lead; further ones end after a burst
# Reads in flight that the kernel sends ahead of programs, for all files together. Its default of 12
# leaves fast stores idle.
BACKGROUND: Final = 64
# Seconds that requests in flight get to end once the mount is gone. Longer ones wait for the
# network, and no program needs their answers any more.
DRAIN_TIMEOUT_S: Final = 2.0
FEATURES: Final = (
    Feature.ASYNC_READ
    | Feature.BIG_WRITES
    | Feature.DO_READDIRPLUS
    | Feature.PARALLEL_DIROPS
    | Feature.MAX_PAGES
)
# Requests that are served for any user with `allow_root`, as in libfuse: those of an open file or
# directory, which the process may have opened before it changed its user, and the kernel's own.
_FOR_ANY_USER: Final = frozenset(
    {Opcode.INIT, Opcode.READ, Opcode.WRITE, Opcode.RELEASE, Opcode.READDIR, Opcode.READDIRPLUS}
    | {Opcode.RELEASEDIR, Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
)


# Requests whose answers have attributes or names that the kernel keeps.
_WITH_ATTRIBUTES: Final = frozenset(
    {Opcode.LOOKUP, Opcode.GETATTR, Opcode.SETATTR, Opcode.READDIR, Opcode.READDIRPLUS}
)


class _Request:
    """A request in flight: the calling process, and whether it was interrupted."""

    __slots__ = ("interrupted", "pid", "unique")

    def __init__(self, unique: int, pid: int) -> None:
        self.unique = unique
        self.interrupted = False
        self.pid = pid


_serving = threading.local()


def interrupted() -> bool:
    """Whether the request that the calling thread serves was interrupted; False elsewhere."""
    request = getattr(_serving, "request", None)
    return request is not None and request.interrupted


def calling_pid() -> int:
    """The process whose request the calling thread serves; 0 elsewhere."""
    request = getattr(_serving, "request", None)
    return 0 if request is None else request.pid


class Session:
    """One mount.

    Safe for concurrent use. The lock guards the number of threads that wait for the lead, and is
    never held during a request; the dict of requests in flight changes by single operations.

    *on_ready* is called once the kernel has its first answer: the mount may be used. With *users*,
    only these user ids are served.
    """

    def __init__(
        self,
        operations: TaskOperations,
        channel: Channel,
        packer: Packer,
        on_ready: Callable[[], None],
        users: frozenset[int] | None = None,
    ) -> None:
        self._operations = operations
        self._channel = channel
        self._invalidator: Invalidator | None = None
        self._name_reader: NameReader | None = None
        self._dispatch = Dispatch(operations, packer, self._write_pages, self._is_name_reader)
        self._on_ready = on_ready
        self._users = users
        self._lock = threading.Lock()
        self._lead = Lead(self._ensure_successor)
        self._idle = 0  # threads that wait for the lead
        self._running: dict[int, _Request] = {}
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def keep_versions(self) -> None:
        """Let the kernel keep what belongs to one version of an archive; notify it of changes."""
        operations, nodes = self._operations, self._dispatch.nodes
        self._invalidator = Invalidator(self._channel, nodes, operations.is_loaded_directory)
        operations.keep_versions(self._invalidator.invalidate)

    def read_names_ahead(self, reader: NameReader) -> None:
        """Have *reader* read the next names of a directory whose names are looked up in turn."""
        self._name_reader = reader
        self._operations.on_lookups_in_order(reader.read)

    def _is_name_reader(self) -> bool:
        reader = self._name_reader
        return reader is not None and reader.pid == calling_pid() != 0

    def serve(self) -> None:
        """Answer requests until the mount is gone, and wait a short time for those in flight.

        Raises:
            ProtocolRefused: the kernel speaks another version of the protocol.
            MountError: *on_ready* failed, or a request raised a BaseException such as SystemExit.
        """
        try:
            if self._shake_hands():
                with self._lock:
                    self._add_thread()
                self._start_watchdog()
                self._on_ready()
                self._ended.wait()
        except ProtocolRefused:
            raise
        except Exception as exc:
            self._end(exc)
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        while self._running and self._failure is None and time.monotonic() < deadline_s:
            time.sleep(DRAIN_TIMEOUT_S / 100)
        if self._failure is not None:
            raise MountError(f"the mount ended: {self._failure}") from self._failure

    def _shake_hands(self) -> bool:
        """Answer INIT, the first request; return False if the mount is gone before it."""
        buffer = bytearray(MAX_REQUEST)
        if not self._channel.receive(buffer):
            return False
        _, opcode, unique, *_ = HEADER_IN.unpack_from(buffer)
        major, minor, readahead, features = INIT_IN.unpack_from(buffer, HEADER_IN.size)
        if opcode != Opcode.INIT or major != MAJOR or minor < OLDEST_MINOR:
            raise ProtocolRefused(
                f"the kernel speaks FUSE {major}.{minor}: Linux 4.18 or newer is needed"
            )
        answer = INIT_OUT.pack(
            *(MAJOR, min(minor, MINOR), readahead, features & FEATURES),
            *(BACKGROUND, BACKGROUND * 3 // 4, MAX_WRITE, 1, MAX_READ // PAGE, 0),
        )
        self._reply(unique, 0, (answer,))
        return True

    def _end(self, failure: BaseException | None) -> None:
        if failure is not None and self._failure is None:
            self._failure = failure
        self._ended.set()

    def _start_watchdog(self) -> None:
        try:
            threading.Thread(target=self._lead.watch, name="taskfs-lead", daemon=True).start()
        except RuntimeError as exc:  # waits that are not announced delay others
            log.warning("%s: requests may wait for each other", exc)

    def _add_thread(self) -> None:
        """Start one more thread; RuntimeError if the system has none left. Needs the lock."""
        threading.Thread(target=self._work, name="taskfs-session", daemon=True).start()
        self._idle += 1

    def _work(self) -> None:
        buffer = bytearray(MAX_REQUEST)
        view = memoryview(buffer)
        call_before_waits(self._hand_over)
        try:
            while self._lead_until_handed_over(buffer, view):
                with self._lock:
                    if self._idle >= MAX_IDLE:
                        return
                    self._idle += 1
            self._lead.end()
            self._end(None)
        except BaseException as exc:
            log.critical("the mount ends", exc_info=True)
            self._end(exc)

    def _lead_until_handed_over(self, buffer: bytearray, view: memoryview) -> bool:
        """Take the lead and answer requests until it is handed over.

        Return False, and keep the lead, if the mount is gone.
        """
        self._lead.take()
        with self._lock:
            self._idle -= 1
        while length := self._channel.receive(buffer):
            if not self.answer(view[:length]):
                return True
        return False

    def _hand_over(self) -> None:
        """Let another thread read requests, if the calling one has the lead."""
        request = getattr(_serving, "request", None)
        if request is not None:
            self._lead.hand_over(request.unique)

    def _ensure_successor(self) -> None:
        """Start a thread if none waits for the lead."""
        with self._lock:
            if self._idle:
                return
            try:
                self._add_thread()
            except RuntimeError as exc:  # the threads that answer now take the next requests
                log.warning("%s: requests wait for each other", exc)

    def answer(self, message: memoryview) -> bool:
        """Answer one request; return whether the calling thread still has the lead.

        This is the boundary: no Exception of a request leaves it. OSError leaves it if the kernel
        refuses both the answer and the error in its place.
        """
        _, opcode, unique, nodeid, uid, _, pid, _ = HEADER_IN.unpack_from(message)
        body = message[HEADER_IN.size :]
        if opcode == Opcode.INTERRUPT:
            self._interrupt(unique, *INTERRUPT_IN.unpack_from(body))
            return True
        self._lead.begin(unique)
        _serving.request = self._running[unique] = _Request(unique, pid)
        error, answer = 0, NO_ANSWER
        has_attributes = self._invalidator is not None and opcode in _WITH_ATTRIBUTES
        changes = self._operations.changes if has_attributes else 0
        try:
            if self._users is not None and opcode not in _FOR_ANY_USER and uid not in self._users:
                error = errno.EACCES
            else:
                answer = self._dispatch.answer(opcode, nodeid, body)
        except TaskFSError as exc:
            error = exc.errno
        except OSError as exc:
            if isinstance(exc.errno, int) and exc.errno > 0:
                error = exc.errno
            else:
                error = errno.EIO
                log.error("request %d: an OSError without an errno", opcode, exc_info=True)
        except Exception:
            log.error("request %d: unexpected error", opcode, exc_info=True)
            error = errno.EIO
        except BaseException:
            self._reply(unique, errno.EIO, ())
            raise
        finally:
            _serving.request = None
            del self._running[unique]
        if error or answer:
            self._reply(unique, error, answer)
            if has_attributes and changes != self._operations.changes:
                self._invalidate_again(nodeid)
        return self._lead.keep(unique)

    def _invalidate_again(self, nodeid: int) -> None:
        """Drop what the kernel received while an archive changed: it may be of the old version."""
        with contextlib.suppress(NotFound):
            if self._invalidator is not None:
                self._invalidator.invalidate(self._dispatch.nodes.path(nodeid))

    def _reply(self, unique: int, error: int, parts: Answer) -> None:
        length = HEADER_OUT.size + sum(map(len, parts))
        try:
            self._channel.send((HEADER_OUT.pack(length, -error, unique), *parts))
        except OSError:  # for example ENOMEM: the caller must get an error, or it waits for ever
            log.error("the kernel refused an answer of %d bytes", length, exc_info=True)
            self._channel.send((HEADER_OUT.pack(HEADER_OUT.size, -errno.EIO, unique),))

    def _interrupt(self, unique: int, interrupted: int) -> None:
        """Note that the caller of the request *interrupted* was interrupted."""
        request = self._running.get(interrupted)
        if request is not None:
            request.interrupted = True
        else:
            # Another thread may have read the request and not noted it yet. After EAGAIN the kernel
            # sends the interrupt again, unless it has the request's answer by then.
            self._reply(unique, errno.EAGAIN, ())

    def _write_pages(self, nodeid: int, offset: int, piece: Buffer) -> None:
        """Put *piece* into the kernel's page cache of a file, as if read at *offset*.

        The kernel waits for reads of the same pages: see `page_push`.
        """
        head = NOTIFY_STORE_OUT.pack(nodeid, offset, len(piece), 0)
        length = HEADER_OUT.size + len(head) + len(piece)
        self._channel.send((HEADER_OUT.pack(length, NOTIFY_STORE, 0), head, piece))
