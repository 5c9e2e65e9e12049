"""Trees without a cloud: one whose every answer is an exception, and one of folders."""

import requests

from taskfs import errors
from taskfs.errors import TaskFSError
from taskfs.tree.handle_table import HandleTable
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import Attrs, Directory, Entry, Node

TRANSPORT_ERRORS = (
    requests.ConnectionError("refused"),
    requests.Timeout(),
    TimeoutError("timed out"),
    KeyError("missing"),
    MemoryError(),
    OSError(None, "an errno of None"),
    OSError(),
    ValueError("bad"),
    RecursionError(),
    ZeroDivisionError(),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
)
OURS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TaskFSError) and kind is not TaskFSError
]


class Failing:
    """A tree all of whose answers are one exception."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.handles = HandleTable()

    def resolve(self, path: str) -> Node:
        if self.failure is not None:
            raise self.failure
        return Node(path)

    def attrs(self, path: str) -> Attrs:
        return self.resolve(path).attrs()


class Folder(Directory):
    def attrs(self) -> Attrs:
        return Attrs(0o040755, 4)

    def children(self) -> list[Entry]:
        return [Entry("a", 0o100644, 5), Entry("b\udcff", 0o040755, 6), Entry("ü", 0o120777, 7)]

    def known_attrs(self, name: str) -> Attrs | None:
        return Attrs(0o100644, 5, 9) if name == "a" else None

    def lifetime(self) -> Lifetime:
        return Lifetime.VERSION if self.path else Lifetime.TIMEOUT


class File(Node):
    def attrs(self) -> Attrs:
        return Attrs(0o100644, 5, 9)


class Folders(Failing):
    def resolve(self, path: str) -> Node:
        return File(path) if path == "/a" else Folder(path)
