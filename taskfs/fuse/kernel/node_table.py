"""`NodeTable`: the nodeids that the kernel knows, their names and lookup counts."""

import threading
from array import array
from collections.abc import Sequence
from typing import Final

from taskfs.errors import NotFound
from taskfs.fuse.kernel.protocol import ROOT_ID
from taskfs.fuse.path_codec import decode_name, encode_name

# Directories whose paths are remembered: programs mostly go through one directory at a time.
MAX_PATHS: Final = 1024
# Bytes. Once the names of forgotten nodes take this much, the other names are copied and all freed.
MIN_GARBAGE: Final = 1 << 20
BUCKET_NODES: Final = 2  # nodes of a bucket on average: more take time, fewer take memory
BATCH: Final = 2048  # nodes that are looked at while requests wait for the lock
_HASH_MASK: Final = (1 << 32) - 1


class NodeTable:
    """Maps nodeids to paths, and names to nodeids. Safe for concurrent use: the lock guards all.

    The nodes are columns of integers: some 40 bytes for a name that the kernel knows, of which
    there may be millions. A nodeid is a position in the columns; that of a node that the kernel has
    forgotten is used again. A node holds its directory, because the kernel may forget a directory
    before a file in it that is open. `PageCache` distinguishes the versions of an archive; a path
    has one nodeid for all of them, or two if it was a file and is a directory.

    The nodes are found by a hash table that grows by one bucket at a time (linear hashing), so no
    request waits for a million names to be moved.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By nodeid. 0 is no node, and the root is its own directory.
        self._parent = array("I", (0, ROOT_ID))
        self._holds = array("Q", (0, 1))  # lookups, and nodes in it; 0 for a free nodeid
        self._name_at = array("I", (0, 0))
        self._name_length = array("H", (0, 0))
        self._hash = array("I", (0, 0))  # of the directory's nodeid and the name
        self._next = array("I", (0, 0))  # the next node in the bucket, or the next free nodeid
        self._is_directory = bytearray(2)
        self._names = bytearray()
        self._garbage = 0  # bytes of `names`
        self._free = 0
        self._count = 0
        self._buckets = array("I", (0,))  # the first node of each
        self._level = 1  # a power of two; the buckets before `len(buckets) - level` are split
        self._paths: dict[int, str] = {}  # of directories that were used lately

    def __len__(self) -> int:
        return self._count

    def path(self, nodeid: int) -> str:
        """Return the path, with a leading slash, empty for the root.

        Raises:
            NotFound: the kernel does not know this nodeid, or has forgotten it.
        """
        if nodeid == ROOT_ID:
            return ""
        with self._lock:
            if not 0 < nodeid < len(self._holds) or not self._holds[nodeid]:
                raise NotFound(f"no node has the number {nodeid}")
            return f"{self._directory(self._parent[nodeid])}/{decode_name(self._name(nodeid))}"

    def is_directory(self, nodeid: int) -> bool:
        """Whether the node was a directory when the kernel looked it up."""
        return nodeid == ROOT_ID or bool(self._is_directory[nodeid])

    def add_lookup(self, parent: int, name: bytes, *, is_directory: bool = False) -> int:
        """Return the nodeid of *name* in the directory *parent*, and count one more lookup.

        Raises:
            NotFound: the kernel has forgotten the directory.
        """
        with self._lock:
            if not 0 < parent < len(self._holds) or not self._holds[parent]:
                raise NotFound(f"no node has the number {parent}")
            hashed = hash((parent, name)) & _HASH_MASK
            bucket = self._bucket(hashed)
            nodeid, hashes = self._buckets[bucket], self._hash
            while nodeid:
                if (
                    hashes[nodeid] == hashed
                    and self._is_directory[nodeid] == is_directory
                    and self._is(nodeid, parent, name)
                ):
                    self._holds[nodeid] += 1
                    return nodeid
                nodeid = self._next[nodeid]
            nodeid = self._add(parent, name, hashed, bucket)
            self._is_directory[nodeid] = is_directory
            return nodeid

    def name(self, nodeid: int) -> tuple[int, bytes]:
        """Return the directory of a node, and its name there.

        Raises:
            NotFound: the kernel has forgotten it.
        """
        with self._lock:
            if not self._holds[nodeid]:
                raise NotFound(f"no node has the number {nodeid}")
            return self._parent[nodeid], self._name(nodeid)

    def beneath(self, paths: Sequence[str]) -> "list[array[int]]":
        """Return the nodeids at and beneath each of *paths*, which are found in one pass.

        No path may lie beneath another one.
        """
        # The number of the list to which each directory belongs; the last list, for nodes beneath
        # none of the paths, is dropped.
        inside = {ROOT_ID: len(paths)}
        for number, path in enumerate(paths):
            tops = {ROOT_ID}
            for name in encode_name(path.strip("/")).split(b"/"):
                tops = {each for parent in tops for each in self._named(parent, name)}
            inside.update(dict.fromkeys(tops, number))
        found = [array("I") for _ in (*paths, "")]
        tops = set(inside)
        for first in range(2, len(self._holds), BATCH):
            with self._lock:
                for nodeid in range(first, min(first + BATCH, len(self._holds))):
                    if self._holds[nodeid]:
                        top = nodeid if nodeid in tops else self._parent[nodeid]
                        found[self._list_of(top, inside)].append(nodeid)
        return found[:-1]

    def _named(self, parent: int, name: bytes) -> list[int]:
        """Return the nodes called *name* in the directory *parent*: two at most."""
        found = []
        with self._lock:
            hashed = hash((parent, name)) & _HASH_MASK
            nodeid = self._buckets[self._bucket(hashed)]
            while nodeid:
                if self._hash[nodeid] == hashed and self._is(nodeid, parent, name):
                    found.append(nodeid)
                nodeid = self._next[nodeid]
        return found

    def _list_of(self, nodeid: int, inside: dict[int, int]) -> int:
        """Return the number of the list to which the directory *nodeid* belongs.

        It is that of the nearest directory above in *inside*; all directories on the way are added
        to *inside*. The caller holds the lock.
        """
        chain = []
        while nodeid not in inside:
            chain.append(nodeid)
            nodeid = self._parent[nodeid]
        number = inside[nodeid]
        inside.update(dict.fromkeys(chain, number))
        return number

    def forget(self, nodeid: int, count: int) -> None:
        """Subtract *count* lookups; a node without any, and without nodes in it, is removed."""
        with self._lock:
            if 0 < nodeid < len(self._holds) and nodeid != ROOT_ID:
                while self._holds[nodeid] and self._release(nodeid, count):
                    nodeid, count = self._parent[nodeid], 1

    def _release(self, nodeid: int, count: int) -> bool:
        """Subtract *count* holds; return whether the node is removed. Needs the lock."""
        left = max(0, self._holds[nodeid] - count)
        self._holds[nodeid] = left
        if left or nodeid == ROOT_ID:
            return False
        bucket = self._bucket(self._hash[nodeid])
        if self._buckets[bucket] == nodeid:
            self._buckets[bucket] = self._next[nodeid]
        else:
            before = self._buckets[bucket]
            while self._next[before] != nodeid:
                before = self._next[before]
            self._next[before] = self._next[nodeid]
        self._next[nodeid], self._free = self._free, nodeid
        self._paths.pop(nodeid, None)
        self._count -= 1
        self._garbage += self._name_length[nodeid]
        if self._garbage > max(MIN_GARBAGE, len(self._names) // 2):
            self._copy_names()
        return True

    def _add(self, parent: int, name: bytes, hashed: int, bucket: int) -> int:
        following, at, length = self._buckets[bucket], len(self._names), len(name)
        nodeid = self._free
        if nodeid:
            self._free = self._next[nodeid]
            self._parent[nodeid], self._holds[nodeid] = parent, 1
            self._name_at[nodeid], self._name_length[nodeid] = at, length
            self._hash[nodeid], self._next[nodeid] = hashed, following
        else:
            nodeid = len(self._parent)
            self._parent.append(parent)
            self._holds.append(1)
            self._name_at.append(at)
            self._name_length.append(length)
            self._hash.append(hashed)
            self._next.append(following)
            self._is_directory.append(0)
        self._names += name
        self._holds[parent] += 1
        self._buckets[bucket] = nodeid
        self._count += 1
        if self._count > BUCKET_NODES * len(self._buckets):
            self._split()
        return nodeid

    def _bucket(self, hashed: int) -> int:
        bucket = hashed & 2 * self._level - 1
        return bucket if bucket < len(self._buckets) else bucket - self._level

    def _split(self) -> None:
        """Add a bucket, and move the nodes to it that belong there."""
        buckets, hashes, following, level = self._buckets, self._hash, self._next, self._level
        old = len(buckets) - level
        nodeid, stays, moves = buckets[old], 0, 0
        while nodeid:
            after = following[nodeid]
            if hashes[nodeid] & level:
                following[nodeid], moves = moves, nodeid
            else:
                following[nodeid], stays = stays, nodeid
            nodeid = after
        buckets[old] = stays
        buckets.append(moves)
        if len(buckets) == 2 * level:
            self._level = 2 * level

    def _copy_names(self) -> None:
        """Drop the names of nodes that were removed."""
        names = bytearray()
        for nodeid, holds in enumerate(self._holds):
            if holds:
                name = self._name(nodeid)
                self._name_at[nodeid] = len(names)
                names += name
        self._names, self._garbage = names, 0

    def _is(self, nodeid: int, parent: int, name: bytes) -> bool:
        return self._parent[nodeid] == parent and self._name(nodeid) == name

    def _name(self, nodeid: int) -> bytes:
        at = self._name_at[nodeid]
        return bytes(self._names[at : at + self._name_length[nodeid]])

    def _directory(self, nodeid: int) -> str:
        """Return the path of a directory. Needs the lock."""
        if nodeid == ROOT_ID:
            return ""
        path = self._paths.get(nodeid)
        if path is None:
            path = f"{self._directory(self._parent[nodeid])}/{decode_name(self._name(nodeid))}"
            if len(self._paths) >= MAX_PATHS:
                self._paths.clear()
            self._paths[nodeid] = path
        return path
