"""A task's metadata as extended attributes `user.taskfs.metadata.<key>`."""

from collections.abc import Callable
from typing import Final

from taskfs.errors import AttributeExists, InvalidValue, NoAttribute, ReadOnly
from taskfs.tree.context import TreeContext

PREFIX: Final = "user.taskfs.metadata."
NAME_MAX: Final = 255  # bytes of an attribute's name, xattr(7)


class MetadataAttributes:
    """The extended attributes of one task's directory."""

    def __init__(self, task_id: str, context: TreeContext) -> None:
        self._task_id = task_id
        self._context = context

    def _metadata(self) -> dict[str, str]:
        return dict(self._context.task_cache.get_full(self._task_id).task.metadata or {})

    def xattr_names(self) -> list[str]:
        """Return one name for each metadata key that fits into a name."""
        names = [PREFIX + key for key in self._metadata() if key and "\0" not in key]
        return [name for name in names if len(name.encode("utf-8", "replace")) <= NAME_MAX]

    def xattr(self, name: str) -> str:
        """Return the value of a metadata key.

        Raises:
            NoAttribute: there is no such key.
        """
        key = _key(name)
        metadata = self._metadata() if key else {}
        if key not in metadata:
            raise NoAttribute(name)
        return metadata[key]

    def set_xattr(self, name: str, value: bytes, *, create: bool, replace: bool) -> None:
        """Set a metadata key at the API; an unchanged value sends no request.

        Raises:
            InvalidValue: an empty value, or a key or value that is not UTF-8 (EINVAL).
            ReadOnly: the name is not that of a metadata key, or the mount is read-only.
        """
        key = self._writable(name)
        try:
            key.encode("utf-8")  # other bytes are surrogates here
            text = value.decode("utf-8")
        except UnicodeError as exc:
            raise InvalidValue("a metadata key or value must be UTF-8") from exc
        if not text:
            raise InvalidValue("a metadata value cannot be empty")
        metadata = self._metadata()
        if create and key in metadata:
            raise AttributeExists(name)
        if replace and key not in metadata:
            raise NoAttribute(name)
        if metadata.get(key) != text:
            self._send(lambda: self._context.api.set_metadata(self._task_id, key, text))

    def remove_xattr(self, name: str) -> None:
        """Remove a metadata key at the API."""
        key = self._writable(name)
        if key not in self._metadata():
            raise NoAttribute(name)
        self._send(lambda: self._context.api.remove_metadata(self._task_id, key))

    def _writable(self, name: str) -> str:
        if self._context.read_only:
            raise ReadOnly("the mount is read-only")
        key = _key(name)
        if not key:
            raise ReadOnly(f"{name} cannot be changed")
        return key

    def _send(self, request: Callable[[], None]) -> None:
        """Send *request*, then load the record, also if the program was interrupted."""

        def change() -> None:
            request()
            # Not `reload`: the response that it joins may be of the time before the change.
            self._context.task_cache.load(self._task_id)

        self._context.waiter.result(self._context.api_pool.submit(change))


def _key(name: str) -> str:
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""
