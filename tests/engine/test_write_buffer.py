# SPDX-License-Identifier: GPL-2.0-or-later
import resource
from pathlib import Path

from lcfs.engine.write_buffer import NR_BUFFERS, BufferPool

SEGMENT = 1 << 20


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_as_many_buffers_as_the_pool_has_and_then_none() -> None:
    pool = BufferPool(SEGMENT, 3)
    assert pool.available == 3
    taken = [pool.take_nowait() for _ in range(4)]
    assert [buffer is not None for buffer in taken] == [True, True, True, False]
    assert pool.available == 0
    assert len({id(buffer) for buffer in taken[:3]}) == 3


def test_what_is_put_back_can_be_taken_again_and_is_open() -> None:
    pool = BufferPool(SEGMENT, 1)
    buffer = pool.take_nowait()
    assert buffer is not None
    assert len(buffer.view) == SEGMENT
    buffer.closed = True
    pool.put(buffer)
    assert pool.available == 1
    again = pool.take_nowait()
    assert again is buffer
    assert not again.closed
    assert again.pending == 0


def test_buffers_do_not_share_memory() -> None:
    pool = BufferPool(SEGMENT, 2)
    one, two = pool.take_nowait(), pool.take_nowait()
    assert one is not None
    assert two is not None
    one.view[:] = b"\xff" * SEGMENT
    assert two.view == bytes(SEGMENT)


def test_there_are_64_and_memory_is_taken_when_it_is_first_used() -> None:
    assert NR_BUFFERS == 64
    before = resident()
    pool = BufferPool(SEGMENT)
    buffers = [pool.take_nowait() for _ in range(64)]
    assert None not in buffers
    assert pool.take_nowait() is None
    assert resident() - before < 16 << 20
