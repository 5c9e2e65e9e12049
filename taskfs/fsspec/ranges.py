"""Reading byte ranges of files, several at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from taskfs.fsspec.shared_core import SharedCore, as_oserror
from taskfs.support.chunks import read_chunks
from taskfs.tree.handles import Handle


def read_range(handle: Handle, start: int | None, end: int | None) -> bytes:
    """Return the bytes [start, end), which may be None or negative as in a slice."""
    begin, stop, _ = slice(start, end).indices(handle.size)
    return b"".join(read_chunks(handle.read_at, begin, stop))


def read_ranges(
    open_handle: Callable[[str], tuple[Handle, SharedCore]],
    paths: Sequence[str],
    starts: Sequence[int | None],
    ends: Sequence[int | None],
) -> list[bytes | Exception]:
    """Return the bytes of each range, or the OSError of a range that could not be read.

    Each file is opened once, and its ranges start in the order of their offsets, so that a
    compressed file is decoded once from front to back.
    """
    opened: dict[str, tuple[Handle, SharedCore]] = {}
    futures: dict[int, Future[bytes]] = {}
    outcomes: list[bytes | Exception] = [b""] * len(paths)
    for n in sorted(range(len(paths)), key=lambda n: (paths[n], starts[n] or 0)):
        path = paths[n]
        try:
            handle, shared = opened[path] = opened.get(path) or open_handle(path)
        except OSError as exc:
            outcomes[n] = exc
            continue
        futures[n] = shared.range_pool.submit(_read_one, path, handle, starts[n], ends[n])
    try:
        for n, future in futures.items():
            error = future.exception()
            outcomes[n] = error if isinstance(error, Exception) else future.result()
    finally:
        for future in futures.values():
            future.cancel()
        is_idle = all(future.done() for future in futures.values())
        for handle, shared in opened.values():
            if is_idle:
                handle.close()
            else:  # the caller was interrupted, and the pool still reads some of the files
                shared.abandoned_handles.append(handle)
    return outcomes


def _read_one(path: str, handle: Handle, start: int | None, end: int | None) -> bytes:
    with as_oserror(path):
        return read_range(handle, start, end)
