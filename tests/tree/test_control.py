# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages written to control, and what is read back."""

from __future__ import annotations

import errno

import pytest

from lcfs.engine import LcfsError
from tests.tree.world import World


async def test_the_answer_is_read_behind_the_message(world: World) -> None:
    handle = world.control().open()
    message = b"switch_to 1\n"
    assert await handle.write(message) == len(message)
    answer = world.manager.status_text().encode()
    position = len(message)
    assert handle.read(position, 10) == answer[:10]
    assert handle.read(position + 10, 65536) == answer[10:]
    assert handle.read(position + len(answer), 65536) == b""
    position += len(answer)
    assert await handle.write(b"clear_stat\n") == 11
    assert handle.read(position + 11, 65536) == b""


async def test_why_not_is_read_where_the_failed_write_left_the_file(world: World) -> None:
    handle = world.control().open()
    with pytest.raises(LcfsError) as refusal:
        await handle.write(b"attach 9 1\n")
    assert refusal.value.errno == errno.ENOENT
    assert handle.read(0, 65536).decode() == f"{refusal.value}\n"
    assert handle.read(len(f"{refusal.value}\n"), 65536) == b""
    assert handle.read(0, 3).decode() == str(refusal.value)[:3]  # a seek back reads it again
    assert world.control().open().read(0, 65536).decode() == f"{refusal.value}\n"


async def test_a_fresh_control_has_nothing_to_say(world: World) -> None:
    assert world.control().open().read(0, 65536) == b""


@pytest.mark.parametrize("message", [b"clear_stat\nclear_stat\n", b"clear_stat\0", b"\n", b'attach "1 1\n'], ids=repr)
async def test_control_takes_one_line_at_a_time(world: World, message: bytes) -> None:
    world.manager.cursor = 1
    handle = world.control().open()
    with pytest.raises(LcfsError) as refusal:
        await handle.write(message)
    assert refusal.value.errno == errno.EINVAL
    assert handle.read(0, 65536).decode() == f"{refusal.value}\n"


async def test_a_message_may_carry_any_bytes_a_path_can(world: World) -> None:
    handle = world.control().open()
    with pytest.raises(LcfsError):
        await handle.write(b"format_cache_device /srv/\xff\xfe.img\n")
    assert b"/srv/\xff\xfe.img" in handle.read(0, 65536)
