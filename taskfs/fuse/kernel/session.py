"""`Session`: serves one mount, from the kernel's first request to its last.

Requests are read by as many threads as there are requests that wait for something, and one more.
They are threads of ours, so they keep their locals, and unlike libfuse's nobody waits for those
that hang when the mount is gone.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from taskfs.errors import MountError, TaskFSError
from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.dispatch import NO_ANSWER, Answer, Dispatch
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

log = logging.getLogger(__name__)

MAX_WRITE: Final = 64 << 10  # as long as an extended attribute may be
ROOM: Final = MAX_WRITE + PAGE  # the longest request, with its header
MAX_READ: Final = 1 << 20
MAX_IDLE: Final = 16  # threads that wait for a request; a crowd's others end
# Reads that the kernel sends ahead of its readers: of all of them together.
BACKGROUND: Final = 64
SHUTDOWN_TIMEOUT_S: Final = 2.0
FEATURES: Final = (
    Feature.ASYNC_READ
    | Feature.BIG_WRITES
    | Feature.DO_READDIRPLUS
    | Feature.PARALLEL_DIROPS
    | Feature.MAX_PAGES
)


class _Request:
    """A request that is being answered."""

    __slots__ = ("interrupted",)

    def __init__(self) -> None:
        self.interrupted = False


_served = threading.local()


def interrupted() -> bool:
    """Whether the request that the calling thread serves was interrupted; False elsewhere."""
    request = getattr(_served, "request", None)
    return request is not None and request.interrupted


class Session:
    """One mount. Safe for concurrent use: the lock guards the counts of threads and requests.

    *on_ready* is called once the kernel has its first answer: the mount may be used.
    """

    def __init__(
        self,
        operations: TaskOperations,
        channel: Channel,
        packer: Packer,
        on_ready: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._dispatch = Dispatch(operations, packer, self._store)
        self._on_ready = on_ready
        self._lock = threading.Lock()
        self._idle = 0
        self._running: dict[int, _Request] = {}
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def serve(self) -> None:
        """Answer until the mount is gone; what is under way then has a moment to end.

        Raises:
            MountError: the kernel speaks another protocol, or *on_ready* failed, or a request
                met what is no error of its own, such as SystemExit.
        """
        try:
            if self._shake_hands():
                with self._lock:
                    self._add_thread()
                self._on_ready()
                self._ended.wait()
        except Exception as exc:
            self._end(exc)
        deadline_s = time.monotonic() + SHUTDOWN_TIMEOUT_S
        while self._running and self._failure is None and time.monotonic() < deadline_s:
            time.sleep(SHUTDOWN_TIMEOUT_S / 100)
        if self._failure is not None:
            raise MountError(f"the mount ended: {self._failure}") from self._failure

    def _shake_hands(self) -> bool:
        """Answer INIT, the first request; return whether there was one."""
        room = bytearray(ROOM)
        if not self._channel.receive(room):
            return False
        _, opcode, unique, *_ = HEADER_IN.unpack_from(room)
        major, minor, readahead, features = INIT_IN.unpack_from(room, HEADER_IN.size)
        if opcode != Opcode.INIT or major != MAJOR or minor < OLDEST_MINOR:
            raise MountError(
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

    def _add_thread(self) -> None:
        """Have one more thread wait for requests; RuntimeError if the system has none left."""
        threading.Thread(target=self._work, name="taskfs-session", daemon=True).start()
        self._idle += 1

    def _work(self) -> None:
        room = bytearray(ROOM)
        view = memoryview(room)
        try:
            while length := self._channel.receive(room):
                with self._lock:
                    self._idle -= 1
                    if not self._idle:
                        self._replace_me()
                self._serve(view[:length])
                with self._lock:
                    if self._idle >= MAX_IDLE:
                        return
                    self._idle += 1
            self._end(None)
        except BaseException as exc:
            log.critical("the mount ends", exc_info=True)
            self._end(exc)

    def _replace_me(self) -> None:
        """Have another thread wait for requests while the calling one answers."""
        try:
            self._add_thread()
        except RuntimeError as exc:  # one that is answering by now has to do
            log.warning("%s: requests wait for each other", exc)

    def _serve(self, message: memoryview) -> None:
        """Answer one request: the boundary behind which no error may be raised."""
        _, opcode, unique, nodeid, *_ = HEADER_IN.unpack_from(message)
        body = message[HEADER_IN.size :]
        if opcode == Opcode.INTERRUPT:
            self._interrupt(unique, *INTERRUPT_IN.unpack_from(body))
            return
        _served.request = self._running[unique] = _Request()
        error, answer = 0, NO_ANSWER
        try:
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
            _served.request = None
            del self._running[unique]
        if error or answer:
            self._reply(unique, error, answer)

    def _reply(self, unique: int, error: int, parts: Answer) -> None:
        length = HEADER_OUT.size + sum(map(len, parts))
        try:
            self._channel.send((HEADER_OUT.pack(length, -error, unique), *parts))
        except OSError:  # the kernel has no room for it: whoever asked must not wait for ever
            log.error("an answer of %d bytes was not taken", length, exc_info=True)
            self._channel.send((HEADER_OUT.pack(HEADER_OUT.size, -errno.EIO, unique),))

    def _interrupt(self, unique: int, interrupted: int) -> None:
        """The caller of request *interrupted* gave it up."""
        request = self._running.get(interrupted)
        if request is not None:
            request.interrupted = True
        else:
            # It may be in another thread's hands, and not noted yet: the kernel asks again, unless
            # it has the answer by now.
            self._reply(unique, errno.EAGAIN, ())

    def _store(self, nodeid: int, offset: int, piece: Buffer) -> None:
        """Put *piece* among the kernel's pages of a file, as if it had been read at *offset*."""
        told = NOTIFY_STORE_OUT.pack(nodeid, offset, len(piece), 0)
        length = HEADER_OUT.size + len(told) + len(piece)
        self._channel.send((HEADER_OUT.pack(length, NOTIFY_STORE, 0), told, piece))
