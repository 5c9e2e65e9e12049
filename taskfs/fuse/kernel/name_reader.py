"""`NameReader`: has the kernel read the next names of a directory before a program asks for them.

A program that looks up the names of a directory one by one, without listing it, costs a request and
two changes of the thread for each. The kernel learns names with their attributes from READDIRPLUS
as well, some 400 with one request. So a helper process reads the directory, and the daemon answers
it with the names that follow those that were looked up last: see `OpenDirectories`.
"""

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

from taskfs.fuse.helper_process import Helper, start_helper

log = logging.getLogger(__name__)

PAUSE_S: Final = 30.0  # seconds without a helper after the start of one that failed


class NameReader:
    """Reads names ahead on the mount on *mountpoint* with *device*.

    Safe for concurrent use. `read` is called by a thread that answers requests, so it never waits:
    a thread of its own starts a helper and waits for its end, and a message that does not fit is
    dropped.
    """

    def __init__(self, mountpoint: str, device: str) -> None:
        self._prefix = os.fsencode(f"{device}\0{mountpoint}\0")
        # Read now, because an upgrade may remove the file under a running daemon.
        self._program = Path(__file__).with_name("name_helper.py").read_text(encoding="utf-8")
        self._lock = threading.Lock()  # is held while a helper is started
        self._helper: Helper | None = None
        self._paused_until_s = float("-inf")
        self._is_closed = False

    @property
    def pid(self) -> int:
        """The helper's process; 0 without one."""
        helper = self._helper
        return 0 if helper is None else helper.process.pid

    def read(self, path: str) -> bool:
        """Have the names in the directory at *path* read, and return whether they will be."""
        helper = self._helper
        if helper is None:
            if not self._is_closed and time.monotonic() >= self._paused_until_s:
                self._start()
            return False
        try:
            helper.channel.send(self._prefix + os.fsencode(path.strip("/")))
        except BlockingIOError:  # it has not read those of other directories
            return False
        except OSError:  # it has ended
            if self._helper is helper:  # another thread may have started the next one
                self._helper = None
            helper.end()
            return False
        return True

    def close(self) -> None:
        """End the helper; do not wait for it."""
        with self._lock:
            self._is_closed = True
            helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def _start(self) -> None:
        self._paused_until_s = time.monotonic() + PAUSE_S
        with contextlib.suppress(RuntimeError):  # the system has no thread left
            threading.Thread(target=self._run, name="taskfs-names", daemon=True).start()

    def _run(self) -> None:
        with self._lock:
            if self._is_closed or self._helper is not None:
                return
            try:
                helper = start_helper(self._program)
            except OSError as exc:
                log.warning("names are not read ahead: %s", exc)
                return
            helper.channel.setblocking(False)
            self._helper = helper
        status = helper.process.wait()
        if status > 0:  # the next one would fail as well, so the pause stays
            log.warning("names are not read ahead: the helper ended with status %d", status)
        else:  # it was idle, or was killed
            self._paused_until_s = float("-inf")
        if self._helper is helper:
            self._helper = None
        helper.channel.close()
