"""The entries of directories that have a name for each task, made as they are read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

from taskfs.tasks.task_rows import BATCH
from taskfs.tree.nodes import Attrs, Entry


class TaskEntries(Sequence[Entry]):
    """One entry for each of *ids*, which may be a million, and the *others* after them.

    One reader uses it at a time; another one gets the same entries, more slowly.

    Args:
        ids: the tasks in the order of the listing.
        entries_of: returns the entries of some ids, in the same order.
        others: entries that are no tasks.
    """

    def __init__(
        self,
        ids: Sequence[str],
        entries_of: Callable[[Sequence[str]], Sequence[Entry]],
        others: Sequence[Entry] = (),
    ) -> None:
        self._ids = ids
        self._entries_of = entries_of
        self._others = others
        self._batch: tuple[int, Sequence[Entry]] = (0, ())  # the first position, the entries
        self.latest_ids: Sequence[str] = ()  # the ids of the batch that was made last

    def __len__(self) -> int:
        return len(self._ids) + len(self._others)

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        if isinstance(position, slice):
            return [self._at(each) for each in range(*position.indices(len(self)))]
        return self._at(range(len(self))[position])

    def __iter__(self) -> Iterator[Entry]:
        return map(self._at, range(len(self)))

    def _at(self, position: int) -> Entry:
        if position >= len(self._ids):
            return self._others[position - len(self._ids)]
        start, entries = self._batch
        if not start <= position < start + len(entries):
            start = position - position % BATCH
            ids = self._ids[start : start + BATCH]
            entries = self._entries_of(ids)
            self._batch, self.latest_ids = (start, entries), ids
        return entries[position - start]


class KnownAttrs:
    """The attributes of the entries that a listing reads, from one query for each batch.

    Safe for concurrent use: the mapping is replaced and never changed.
    """

    def __init__(self, load: Callable[[Sequence[str]], Mapping[str, Attrs]]) -> None:
        self._load = load
        self._entries: TaskEntries | None = None
        self._loaded: tuple[Sequence[str], Mapping[str, Attrs]] = ((), {})

    def begin(self, entries: TaskEntries) -> TaskEntries:
        """Return *entries*, of whose batches the attributes are loaded from now on."""
        self._entries = entries
        return entries

    def get(self, name: str) -> Attrs | None:
        """Return the attributes of the task *name* if it has ended, else None."""
        ids = self._entries.latest_ids if self._entries is not None else ()
        loaded_ids, found = self._loaded
        if loaded_ids is not ids:
            found = self._load(ids)
            self._loaded = ids, found
        if name in found or name in ids:
            return found.get(name)
        return self._load([name]).get(name)  # of another reader's listing
