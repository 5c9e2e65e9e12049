"""A text file: rendered for a stat or an open."""

from collections.abc import Callable

from taskfs.errors import ReadOnly
from taskfs.tree.handles import Handle, TextHandle
from taskfs.tree.nodes import FILE_MODE, Attrs, Node, blocks_of, inode
from taskfs.tree.text_pins import Pins, Text


class TextNode(Node):
    """A text file that *render* renders; `pins` keeps the text whose size a stat reported."""

    def __init__(
        self, path: str, pins: Pins, render: Callable[[], Text], mode: int = FILE_MODE
    ) -> None:
        super().__init__(path)
        self._mode = mode
        self._pins = pins
        self._render = render

    def attrs(self) -> Attrs:
        text = self._pins.report(self.path, self._render)
        size = len(text.body)
        return Attrs(
            self._mode,
            inode(self.path),
            size=size,
            mtime_ns=text.mtime_ns,
            ctime_ns=text.mtime_ns,
            blocks=blocks_of(size),
        )

    def open(self, *, writing: bool) -> Handle:
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")
        return TextHandle(self._pins.serve(self.path, self._render).body)
