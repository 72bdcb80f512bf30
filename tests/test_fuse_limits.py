# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel limits is raised, and seen to be raised by who would suffer."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from lcfs import fuse_limits
from lcfs.fuse_limits import KERNEL_DEFAULT
from tests.mounted import mounted, syscall
from tests.test_fuse_loop import Files

_libc = ctypes.CDLL(None, use_errno=True)
_IO_SETUP, _IO_DESTROY, _IO_GETEVENTS, _IO_SUBMIT = 206, 207, 208, 209
_IOCB_CMD_PREAD = 0
_IOCB = struct.Struct("<QIiHhIQQqQII")


class AsyncReads:
    """Direct reads under way at the same time (Linux AIO), as a loop device with direct I/O has them."""

    def __init__(self, path: Path, count: int) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.memory = mmap.mmap(-1, count * 4096)
        self.context = ctypes.c_ulong(0)
        self.under_way = count
        self._call(_IO_SETUP, ctypes.c_long(count), ctypes.byref(self.context))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        blocks = [
            ctypes.create_string_buffer(
                _IOCB.pack(n, 0, 0, _IOCB_CMD_PREAD, 0, self.fd, address + n * 4096, 4096, n * 4096, 0, 0, 0)
            )
            for n in range(count)
        ]
        pointers = (ctypes.c_void_p * count)(*map(ctypes.addressof, blocks))
        for done in range(count):
            self._call(
                _IO_SUBMIT, self.context, ctypes.c_long(1), ctypes.byref(pointers, done * ctypes.sizeof(ctypes.c_void_p))
            )

    def finish(self) -> int:
        """Wait for all of them; how many read something."""
        events = ctypes.create_string_buffer(32 * self.under_way)
        count = self._call(
            _IO_GETEVENTS, self.context, ctypes.c_long(self.under_way), ctypes.c_long(self.under_way), events, None
        )
        results = [struct.unpack_from("<QQqq", events.raw, 32 * n)[2] for n in range(count)]
        self._call(_IO_DESTROY, self.context)
        os.close(self.fd)
        return sum(result == 4096 for result in results)

    @staticmethod
    def _call(number: int, *arguments: object) -> int:
        result: int = _libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result


@pytest.mark.mount
async def test_many_asynchronous_requests_that_hang_leave_room_for_others(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can raise max_background everywhere; run as root")
    files, mnt = Files(), tmp_path / "mnt"
    stuck = 4 * KERNEL_DEFAULT
    async with mounted(files, mnt):
        files.gate = trio.Event()
        hanging = await syscall(AsyncReads, mnt / "a", stuck)
        await files.is_waiting(stuck)
        with trio.fail_after(10):
            others = await syscall(AsyncReads, mnt / "b", stuck)
            assert await syscall(others.finish) == stuck
        files.gate.set()
        assert await syscall(hanging.finish) == stuck


@pytest.mark.parametrize(("allowed", "reached"), [(1 << 16, 4096), (4096, 4096), (1337, 1024), (16, 16), (5, None)])
def test_a_plain_user_gets_as_much_as_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, reached: int | None
) -> None:
    files = [tmp_path / "38" / name for name in ("max_background", "congestion_threshold")]
    files[0].parent.mkdir()
    for file in files:
        file.touch()
    write = os.write

    def kernel_write(fd: int, data: bytes) -> int:
        if int(data) > allowed:
            raise OSError(errno.EINVAL, "more than max_user_bgreq")
        return write(fd, data)

    monkeypatch.setattr(fuse_limits, "CONNECTIONS", str(tmp_path))
    monkeypatch.setattr(os, "write", kernel_write)
    fuse_limits.raise_background_limits(38)
    assert [file.read_text() for file in files] == ["" if reached is None else str(reached)] * 2


def test_the_process_says_that_it_serves_block_io() -> None:
    script = """if True:
        import ctypes
        from lcfs.fuse_limits import become_io_flusher
        become_io_flusher()
        PR_GET_IO_FLUSHER = 58
        print(ctypes.CDLL(None).prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0), open("/proc/self/oom_score_adj").read().strip())
    """
    source = str(Path(__file__).parent.parent / "src")
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True, check=True
    )
    flusher, oom_score_adj = done.stdout.split()
    if may_use_reserves():
        assert (flusher, oom_score_adj) == ("1", "-900")
    else:
        assert (flusher, oom_score_adj) == ("-1", Path("/proc/self/oom_score_adj").read_text().strip())


def may_use_reserves() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, which both need."""
    cap_sys_resource = 24
    (effective,) = re.findall(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(int(effective, 16) >> cap_sys_resource & 1)
