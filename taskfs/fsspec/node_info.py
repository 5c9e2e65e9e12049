"""The tree as fsspec tells it: a path to a node, links followed, and a node to its details."""

import contextlib
import posixpath
import stat
from collections.abc import Iterator
from typing import Any, Final

from taskfs.errors import NotFound
from taskfs.tree.archive_nodes import MEMBER_XATTRS, MemberNode
from taskfs.tree.nodes import Directory, Link, Node
from taskfs.tree.tree import Tree

_XATTR_PREFIX: Final = "user.taskfs."


def resolve(tree: Tree, path: str) -> tuple[Node, str | None]:
    """Return the node at *path*, and where that is if the path is a link's.

    Raises:
        NotFound, NotADirectory: there is nothing.
    """
    if not path.startswith("."):
        return tree.resolve(f"/{path}"), None  # only the views hold links
    names = path.split("/")
    for depth in range(1, len(names)):
        place = "/".join(names[:depth])
        node = tree.resolve(f"/{place}")
        if isinstance(node, Link):
            return resolve(tree, posixpath.join(_target(place, node), *names[depth:]))[0], None
    return _follow(tree, path, tree.resolve(f"/{path}"))


def _follow(tree: Tree, path: str, node: Node) -> tuple[Node, str | None]:
    if not isinstance(node, Link):
        return node, None
    target = _target(path, node)
    return resolve(tree, target)[0], target


def _target(path: str, link: Link) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link.target()))


def kind(node: Node) -> str:
    """Return what fsspec calls the type of *node*."""
    return "directory" if isinstance(node, Directory) else "file"


def describe(path: str, node: Node, destination: str | None) -> dict[str, Any]:
    """Return the details of what is at *path*; see `TaskFileSystem.info`."""
    attrs = node.attrs()
    told: dict[str, Any] = {
        "name": path,
        "size": attrs.size,
        "type": kind(node),
        "mtime": attrs.mtime_ns / 1e9,
        "created": attrs.ctime_ns / 1e9,
    }
    if isinstance(node, MemberNode):
        told |= {name.removeprefix(_XATTR_PREFIX): node.xattr(name) for name in MEMBER_XATTRS}
        told["compressed_size"] = int(told["compressed_size"])
    if node.etag:
        told["ETag"] = node.etag
    if destination is not None:
        told |= {"islink": True, "destination": destination}
    return told


def listing(tree: Tree, path: str, node: Directory, *, full: bool) -> Iterator[dict[str, Any]]:
    """Yield the details of what *node*, which is at *path*, holds.

    Unless *full*, only what a listing itself tells: then the size of a file is None.
    """
    for entry in node.children():
        if not path and entry.name.startswith("."):
            continue  # the views: whatever walks the tree would meet each task four times
        name = f"{path}/{entry.name}" if path else entry.name
        if full:
            with contextlib.suppress(NotFound):  # it went in between
                yield describe(name, *_follow(tree, name, node.lookup(entry.name)))
        elif stat.S_ISREG(entry.mode):
            yield {"name": name, "size": None, "type": "file"}
        else:  # what is linked to are the directories of tasks
            yield {"name": name, "size": 0, "type": "directory"}
