"""A text file: rendered for a stat or an open."""

from collections.abc import Callable

from taskfs.tree.handles import Handle, TextHandle
from taskfs.tree.held_texts import HeldTexts, Text
from taskfs.tree.nodes import FILE_MODE, Attrs, Node, blocks_of, inode


class TextNode(Node):
    """A text file that *render* renders; `held_texts` keeps the text whose size a stat reported."""

    def __init__(
        self, path: str, held_texts: HeldTexts, render: Callable[[], Text], mode: int = FILE_MODE
    ) -> None:
        super().__init__(path)
        self._mode = mode
        self._held_texts = held_texts
        self._render = render

    def attrs(self) -> Attrs:
        text = self._held_texts.report(self.path, self._render)
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
        self._refuse_writing(writing)
        return TextHandle(self._held_texts.serve(self.path, self._render).body)
