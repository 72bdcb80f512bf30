# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of a store, kept sparse: what was never written costs nothing."""

from __future__ import annotations

from lcfs.engine.block_store import Buffer

PAGE = 4096
ZERO_PAGE = bytes(PAGE)


class SparseImage:
    """`size` bytes, of which only pages that were written take room.

    Pages are immutable, so that `copy` shares them: a picture of a large image costs as much as the
    number of its written pages, whatever its size.
    """

    __slots__ = ("pages", "size")

    def __init__(self, size: int, pages: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.pages: dict[int, bytes] = {} if pages is None else pages

    @classmethod
    def of(cls, content: Buffer, size: int | None = None) -> SparseImage:
        """An image that begins with `content` and is zero behind it."""
        image = cls(len(content) if size is None else size)
        image.write(0, bytes(content))
        return image

    def copy(self) -> SparseImage:
        """The same content, from now on independent of this image."""
        return SparseImage(self.size, self.pages.copy())

    @property
    def allocated(self) -> int:
        """Bytes that take room."""
        return len(self.pages) * PAGE

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; the range must lie inside the image."""
        length = len(buffer)
        assert 0 <= offset <= self.size - length, (offset, length, self.size)
        pages = self.pages
        index, within = divmod(offset, PAGE)
        if within + length <= PAGE:
            buffer[:] = pages.get(index, ZERO_PAGE)[within : within + length]
            return
        at = 0
        if within:
            at = PAGE - within
            buffer[:at] = pages.get(index, ZERO_PAGE)[within:]
            index += 1
        while length - at >= PAGE:
            buffer[at : at + PAGE] = pages.get(index, ZERO_PAGE)
            at += PAGE
            index += 1
        if at < length:
            buffer[at:] = pages.get(index, ZERO_PAGE)[: length - at]

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        buffer = bytearray(length)
        self.readinto(offset, memoryview(buffer))
        return bytes(buffer)

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`; the range must lie inside the image."""
        length = len(data)
        assert 0 <= offset <= self.size - length, (offset, length, self.size)
        pages = self.pages
        at = 0
        while at < length:
            index, within = divmod(offset + at, PAGE)
            if within == 0 and length - at >= PAGE:
                pages[index] = data[at : at + PAGE]
                at += PAGE
                continue
            part = data[at : at + PAGE - within]
            old = pages.get(index, ZERO_PAGE)
            pages[index] = old[:within] + part + old[within + len(part) :]
            at += len(part)

    def resize(self, size: int) -> None:
        """Cut it off, or let it grow by zeros."""
        if size < self.size:
            last, within = divmod(size, PAGE)
            self.pages = {index: page for index, page in self.pages.items() if index <= last}
            if last in self.pages:
                self.pages[last] = self.pages[last][:within] + bytes(PAGE - within)
        self.size = size

    def __eq__(self, other: object) -> bool:
        """The same size and bytes; a page of zeros equals one that was never written."""
        if not isinstance(other, SparseImage):
            return NotImplemented
        if self.size != other.size:
            return False
        theirs = other.pages
        return all(
            self.pages.get(index, ZERO_PAGE) == theirs.get(index, ZERO_PAGE) for index in self.pages.keys() | theirs.keys()
        )

    __hash__ = None  # type: ignore[assignment]
