"""`DatabaseFile`: the SQLite file of one account, or a temporary one where there is none.

Several mounts use one file at a time. SQLite's rollback journal leaves the file whole when a
process is killed at any moment. No part of the file is mapped into memory, because a file that
another program truncates would then kill this process with SIGBUS: a damaged file is a miss, and an
empty one replaces it.
"""

import contextlib
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from taskfs.cache.eviction import shortage
from taskfs.support.file_systems import is_network_directory

log = logging.getLogger(__name__)

T = TypeVar("T")

DIRECTORY: Final = "tasks"  # beside the blocks, which are evicted file by file
# Seconds that a write waits for another mount's; a write takes milliseconds.
BUSY_TIMEOUT_S: Final = 5.0
# Memory of SQLite's own cache. Ids are random, so a new task touches pages everywhere: a cache of
# 4 MB makes a listing of 100,000 tasks no faster, because the kernel caches the file.
CACHE_KB: Final = 512
# Compiled statements that are kept: one with 500 ids takes 100 KB, and each number of ids makes
# another one.
STATEMENTS: Final = 16
# Bytes that one write takes at most, about.
WRITE_BYTES: Final = 1 << 20
# Identifiers in the header of the file (sqlite.org/fileformat: application_id, user_version).
APPLICATION_ID: Final = 0x7461736B
VERSION: Final = 3
# The errors of a damaged or unusable file. UnicodeDecodeError is among them, because Python cannot
# decode each message of SQLite about a damaged schema.
FAULTS: Final = (sqlite3.DatabaseError, UnicodeDecodeError)
# SQLite's message about a file that was truncated, and Python's about a text with a damaged byte.
# Both come as an OperationalError, as those about a file that cannot be used do.
_NO_TABLE: Final = "no such table"
_NO_TEXT: Final = "Could not decode to UTF-8"
_SIDE_FILES: Final = ("", "-wal", "-shm", "-journal")

SCHEMA: Final = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, created INTEGER NOT NULL, seq INTEGER NOT NULL,
    changed INTEGER NOT NULL, finished INTEGER NOT NULL, status TEXT NOT NULL,
    project TEXT NOT NULL, simulator TEXT NOT NULL, digest BLOB NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE records (id TEXT PRIMARY KEY, packed BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE listings (
    project TEXT NOT NULL, status TEXT NOT NULL, difference INTEGER NOT NULL,
    PRIMARY KEY (project, status)
) WITHOUT ROWID;
CREATE TABLE sums (
    kind TEXT NOT NULL, value TEXT NOT NULL, count INTEGER NOT NULL, digest INTEGER NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY (kind, value)
) WITHOUT ROWID;
CREATE INDEX by_age ON tasks (created, seq);
CREATE INDEX by_seq ON tasks (seq);
CREATE INDEX by_status ON tasks (status, created, seq);
CREATE INDEX by_project ON tasks (project, created, seq);
CREATE INDEX by_simulator ON tasks (simulator, created, seq);
CREATE INDEX changed_by_status ON tasks (status, changed);
CREATE INDEX changed_by_project ON tasks (project, changed);
CREATE INDEX changed_by_simulator ON tasks (simulator, changed);
CREATE INDEX unfinished ON tasks (id) WHERE finished = 0;
"""


# Held during each use of SQLite in this process, and during a fork: SQLite has mutexes of the whole
# process, and a child of a fork that another thread's call had locked would wait for ever.
_sqlite_lock: Final = threading.RLock()
os.register_at_fork(
    before=_sqlite_lock.acquire,
    after_in_parent=_sqlite_lock.release,
    after_in_child=_sqlite_lock.release,
)


class DamagedError(sqlite3.DatabaseError):
    """A row whose checksum is wrong."""


class DatabaseFile:
    """A connection to the file at *path*; None for a temporary database.

    A temporary database is a file without a name, because a large account takes much memory. Only
    where that cannot be written, the database is in memory. Safe for concurrent use: `_sqlite_lock`
    is held during each call. The file is changed only if it is not *read_only*.
    """

    _connection: sqlite3.Connection

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._path = path
        self.is_read_only = read_only
        self._pid = os.getpid()
        self._is_closed = False
        self._is_in_memory = False
        with _sqlite_lock:
            self._reopen()
        self.generation = 0  # grows whenever the content was lost

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of *work*; it runs again on another database if the file fails."""
        with _sqlite_lock:
            while True:
                try:
                    return work(self._connection)
                except FAULTS as exc:
                    if self._is_in_memory and not _is_damage(exc):
                        raise  # an error of this code: memory does not fail
                    self._recover(exc)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run *work* in one transaction."""

        def transact(connection: sqlite3.Connection) -> T:
            if self._path is not None and shortage(self._path.parent, WRITE_BYTES) > 0:
                raise sqlite3.OperationalError("the disk has too little free space")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            return result

        return self.run(transact)

    def close(self) -> None:
        """Close the file; later calls find an empty database in memory."""
        with _sqlite_lock:
            if not self._is_closed and os.getpid() == self._pid:
                self._is_closed = True
                self._connection.close()
                self._path, self._is_in_memory = None, True
                self._connection = self._open_temporary()
                self.generation += 1

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return self._open_temporary()
        try:
            return _open_file(self._path, self.is_read_only)
        except sqlite3.OperationalError as exc:
            log.warning("the tasks are kept in a temporary file: %s: %s", self._path, exc)
        except FAULTS as exc:
            if not self.is_read_only:
                log.warning("%s cannot be read (%s): it is replaced", self._path, exc)
                with contextlib.suppress(sqlite3.Error):
                    remove_database(self._path)
                    return _open_file(self._path, self.is_read_only)
        except OSError as exc:
            log.warning("the tasks are kept in a temporary file: %s", exc)
        self._path = None
        return self._open_temporary()

    def _open_temporary(self, *, is_empty: bool = False) -> sqlite3.Connection:
        # SQLite writes a database without a name to a temporary file once it outgrows the cache.
        connection = _connect(":memory:" if self._is_in_memory else "")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        if not is_empty:
            connection.executescript(SCHEMA)
        return connection

    def _reopen(self) -> None:
        self._connection = self._open()
        self._file_id = _file_id(self._path)

    def _recover(self, exc: Exception) -> None:
        """Replace a damaged database by an empty one, and one that cannot be used by a copy."""
        broken, path = self._connection, self._path
        is_lost = _is_damage(exc) if path is None else self.is_read_only
        if is_lost:
            self._path = None
            self._reopen()
            self.generation += 1
        elif path is None:
            log.warning("the tasks are kept in memory, and in no temporary file: %s", exc)
            self._copy(broken, in_memory=True)
        elif not isinstance(exc, sqlite3.OperationalError) or _is_damage(exc, _NO_TABLE):
            log.warning("%s is damaged (%s): it is replaced", path, exc)
            remove_database(path)
            self._reopen()
            self.generation += 1
        elif _file_id(path) != self._file_id:
            log.warning("%s was removed (%s): a new one is written", path, exc)
            with contextlib.suppress(OSError):
                make_directory(path.parent.parent)
            self._reopen()
            self.generation += 1
        else:
            log.warning("%s cannot be used (%s): the tasks are kept in a temporary file", path, exc)
            self._path = None
            self._copy(broken, in_memory=False)
        with contextlib.suppress(sqlite3.Error):
            broken.close()

    def _copy(self, broken: sqlite3.Connection, *, in_memory: bool) -> None:
        """Continue with a temporary copy, or without the content of a database that cannot be
        read."""
        self._is_in_memory = in_memory
        self._connection = self._open_temporary(is_empty=True)
        try:
            broken.backup(self._connection)
            self._connection.execute("SELECT count(*) FROM listings").fetchone()
        except sqlite3.Error as exc:
            if not in_memory:
                log.warning("the temporary file of the tasks cannot be written: %s", exc)
                self._connection.close()
                self._copy(broken, in_memory=True)
                return
            self._reopen()
            self.generation += 1


def _file_id(path: Path | None) -> tuple[int, int] | None:
    """Return a value that tells the file at *path* from another one; None if there is none."""
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status is not None else None


def _is_damage(exc: Exception, *more: str) -> bool:
    """Whether the content is damaged, by the type of the error or by its text: one of *more*.

    A temporary database may be the copy of a damaged file.
    """
    is_corrupt = type(exc) in (DamagedError, sqlite3.DatabaseError, UnicodeDecodeError)
    return is_corrupt or any(text in str(exc) for text in (_NO_TEXT, *more))


def make_directory(cache_dir: Path) -> Path:
    """Return the directory of the databases, which only its owner can enter.

    A missing *cache_dir* is made with the same mode.

    Raises:
        OSError: it cannot be made, or belongs to another user.
    """
    directory = cache_dir / DIRECTORY
    for each in (cache_dir, directory):  # `parents` ignores the mode
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is a link or belongs to another user")
    os.chmod(directory, 0o700)
    return directory


def host_suffix(directory: Path) -> str:
    """Return the part of a file's name that distinguishes machines; empty on a local file system.

    SQLite's locks do not work on every network file system, so each machine has a file of its own.
    """
    return f".{os.uname().nodename}" if is_network_directory(directory) else ""


def _open_file(path: Path, read_only: bool) -> sqlite3.Connection:
    if read_only:
        return _open_read_only(path)
    if path.is_symlink():
        raise PermissionError(f"{path} is a link")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    try:
        connection.execute("PRAGMA journal_mode = DELETE")  # a write-ahead log would be mapped
        connection.execute("PRAGMA mmap_size = 0")
        # Without fsync. After a power failure the file may be damaged: then it is a miss.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        connection.execute("BEGIN IMMEDIATE")  # two processes may find the file empty
        if connection.execute("PRAGMA schema_version").fetchone() == (0,):
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        _check_version(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    # `immutable` works in a directory that cannot be written, but ignores other processes.
    for options in ("mode=ro", "mode=ro&immutable=1"):
        connection = _connect(f"{uri}?{options}")
        try:
            _check_version(connection)
        except sqlite3.OperationalError:
            connection.close()
            continue
        except BaseException:
            connection.close()
            raise
        return connection
    raise sqlite3.OperationalError("it cannot be opened")


def _connect(name: str) -> sqlite3.Connection:
    """Return a connection to a database, by its URI or by one of SQLite's special names."""
    return sqlite3.connect(
        name,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
        isolation_level=None,
        cached_statements=STATEMENTS,
    )


def _check_version(connection: sqlite3.Connection) -> None:
    """Raise OperationalError for the file of a newer version, which stays and is a miss, and
    DatabaseError for that of an older version, which is replaced."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION_ID and 0 < version < VERSION:
        raise sqlite3.DatabaseError(f"it has the format of an older version ({version})")
    if (version, application) != (VERSION, APPLICATION_ID):
        raise sqlite3.OperationalError(f"it has the format of another version ({version})")
    connection.execute("SELECT count(*) FROM listings").fetchone()


def remove_database(path: Path) -> None:
    """Remove a database with its log; processes that have it open keep its content."""
    for suffix in _SIDE_FILES:
        with contextlib.suppress(OSError):
            os.unlink(f"{path}{suffix}")
