"""From a path to a node, following links, and from a node to fsspec's details of it."""

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
    """Return the node at *path*, and the target's path if *path* is a link.

    Raises:
        NotFound, NotADirectory: there is no such path.
    """
    if not path.startswith("."):
        return tree.resolve(f"/{path}"), None  # only the views contain links
    names = path.split("/")
    for depth in range(1, len(names)):
        parent = "/".join(names[:depth])
        node = tree.resolve(f"/{parent}")
        if isinstance(node, Link):
            return resolve(tree, posixpath.join(_target(parent, node), *names[depth:]))[0], None
    return _follow(tree, path, tree.resolve(f"/{path}"))


def _follow(tree: Tree, path: str, node: Node) -> tuple[Node, str | None]:
    if not isinstance(node, Link):
        return node, None
    target = _target(path, node)
    return resolve(tree, target)[0], target


def _target(path: str, link: Link) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link.target()))


def node_type(node: Node) -> str:
    """Return fsspec's type of *node*."""
    return "directory" if isinstance(node, Directory) else "file"


def describe(path: str, node: Node, destination: str | None) -> dict[str, Any]:
    """Return the details of *node*, which is at *path*; see `TaskFileSystem.info`."""
    attrs = node.attrs()
    details: dict[str, Any] = {
        "name": path,
        "size": attrs.size,
        "type": node_type(node),
        "mtime": attrs.mtime_ns / 1e9,
        "created": attrs.ctime_ns / 1e9,
    }
    if isinstance(node, MemberNode):
        details |= {name.removeprefix(_XATTR_PREFIX): node.xattr(name) for name in MEMBER_XATTRS}
        details["compressed_size"] = int(details["compressed_size"])
    if node.etag:
        details["ETag"] = node.etag
    if destination is not None:
        details |= {"islink": True, "destination": destination}
    return details


def list_directory(
    tree: Tree, path: str, node: Directory, *, full: bool
) -> Iterator[dict[str, Any]]:
    """Yield the details of the children of *node*, which is at *path*.

    Unless *full*, only the details that a listing contains; the size of a file is then None.
    """
    for entry in node.children():
        if not path and entry.name.startswith("."):
            continue  # the views: a program would find each task several times
        name = f"{path}/{entry.name}" if path else entry.name
        if full:
            with contextlib.suppress(NotFound):  # it disappeared after the listing
                yield describe(name, *_follow(tree, name, node.lookup(entry.name)))
        elif stat.S_ISREG(entry.mode):
            yield {"name": name, "size": None, "type": "file"}
        else:  # a directory, or a link, which leads to the directory of a task
            yield {"name": name, "size": 0, "type": "directory"}
