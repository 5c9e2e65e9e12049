"""The order of the children of an index's folders, and the folders' times.

The members come as columns in the order of their entries: the folder of each, and whether it is
shown.
"""

from array import array
from collections.abc import Callable, Iterable

from taskfs.archive.folder_builder import FolderBuilder
from taskfs.archive.index_layout import FOLDER, NO_TIME


def first_members(
    member_parent: Iterable[int], is_shown: bytearray, folder_parent: "array[int]"
) -> "array[int]":
    """Return the first member at or beneath each folder, -1 for none."""
    first = array("q", (-1,)) * len(folder_parent)
    last = -1
    for number, parent in enumerate(member_parent):
        if parent == last or not is_shown[number]:
            continue
        last = folder = parent
        while first[folder] < 0:
            first[folder] = number
            folder = folder_parent[folder]
    return first


def list_children(
    member_parents: Callable[[], Iterable[int]],
    is_shown: bytearray,
    folders: FolderBuilder,
    first_member: "array[int]",
) -> "tuple[array[int], array[int]]":
    """Return the children of all folders, and where those of each folder begin.

    Folders with entries of their own come first, then all others by their first members. Members
    are numbered without those that are not shown. *member_parents* is called twice.
    """
    parents, first_entry, count = folders.parent, folders.first_entry, len(folders)
    named = [folder for folder in range(1, count) if first_entry[folder] >= 0]
    named.sort(key=first_entry.__getitem__)
    implied = [f for f in range(1, count) if first_entry[f] < 0 <= first_member[f]]
    implied.sort(key=first_member.__getitem__, reverse=True)  # the first one is taken first
    child_at = array("I", (0,)) * (count + 1)
    for folder in (*named, *implied):
        child_at[parents[folder] + 1] += 1
    for number, parent in enumerate(member_parents()):
        if is_shown[number]:
            child_at[parent + 1] += 1
    for folder in range(count):
        child_at[folder + 1] += child_at[folder]
    free = array("I", child_at)
    children = array("I", (0,)) * child_at[count]

    def add(child: int, parent: int) -> None:
        children[free[parent]] = child
        free[parent] += 1

    for folder in named:
        add(folder | FOLDER, parents[folder])
    shown = 0
    for number, parent in enumerate(member_parents()):
        while implied and first_member[implied[-1]] <= number:
            folder = implied.pop()
            add(folder | FOLDER, parents[folder])
        if is_shown[number]:
            children[free[parent]] = shown
            free[parent] += 1
            shown += 1
    return children, child_at


def date_folders(
    member_parent: Iterable[int],
    member_time: Iterable[int],
    is_shown: bytearray,
    folders: FolderBuilder,
) -> None:
    """Give folders without an entry of their own the newest time beneath them."""
    time, parents = folders.time, folders.parent
    newest = array("q", (NO_TIME,)) * len(time)
    for parent, time_ns, is_used in zip(member_parent, member_time, is_shown, strict=True):
        if time_ns > newest[parent] and is_used:
            newest[parent] = time_ns
    for folder in range(len(time) - 1, -1, -1):  # parents come before their children
        if time[folder] == NO_TIME:
            time[folder] = newest[folder]
        up = max(newest[folder], time[folder])
        if folder and up > newest[parents[folder]]:
            newest[parents[folder]] = up
