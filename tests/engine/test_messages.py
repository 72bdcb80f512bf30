# SPDX-License-Identifier: GPL-2.0-or-later
"""Control lines: what they do, and what they say when they are wrong."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from lcfs.engine.errors import AlreadyThere, InUse, Invalid, LcfsError, NoSuchThing, OutOfRange
from lcfs.engine.geometry import LINE
from lcfs.engine.messages import VERBS, parse_message, parse_size
from lcfs.engine.spec import DeviceSpec
from tests.engine.bench import DISK, MIB, Bench, read, write
from tests.engine.rig import page

Clock = trio.testing.MockClock
ONE = DeviceSpec("/one", id=1, size=DISK)


# Words


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("512", 512),
        ("4K", 4096),
        ("4k", 4096),
        ("2M", 2 * MIB),
        ("1g", 1 << 30),
        ("16T", 16 << 40),
        ("007K", 7168),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "K",
        "-1",
        "+1",
        "1.5G",
        "1 G",
        " 1",
        "1KB",
        "1KiB",
        "1P",
        "0x10",
        "1e6",
        "1_000",
        "\N{SUPERSCRIPT TWO}",
        "9" * 21,
        "1\n",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid, match="is not a size; give bytes, or a number with K, M, G or T"):
        parse_size(text)


@given(st.text(max_size=10))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except Invalid:
        pass


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "an empty message; the verbs are format_cache_device, switch_to"),
        ("  \n", "an empty message"),
        ("# create 1 /x", "'#' is no message; the verbs are"),
        ("frobnicate", "'frobnicate' is no message; the verbs are format_cache_device, "),
        ('create 1 "/x', r"cannot be read: No closing quotation"),
        ("create 1 /x\\", "cannot be read: No escaped character"),
        ("attach 1", r"attach has 1 words behind it; say `attach ID CACHE`"),
        ("DETACH", r"detach has 0 words behind it; say `detach ID`"),
        ("clear_stat 1", "clear_stat has 1 words behind it; say `clear_stat`"),
        ("suspend 1 noflush now", "suspend has 3 words behind it"),
        ("create 1 /x 1M cache=1 name=a more", "create has 6 words behind it"),
        ("create 1", "create has 1 words behind it; say `create ID PATH"),
    ],
)
def test_lines_that_are_no_message(line: str, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence) as caught:
        parse_message(line)
    assert caught.value.errno == errno.EINVAL


def test_a_sentence_stays_short_and_on_one_line() -> None:
    for line in ("x" * 100000, '"' + "y\n" * 50000, "create " + "z" * 10000 + " /p", "switch_to 1\n2"):
        with pytest.raises(LcfsError) as caught:
            trio.run(parse_message(line), None)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "error", "sentence"),
    [
        ("switch_to 255", Invalid, "cache id 255 is not possible; ids are 1 to 254, and 0 for none"),
        ("switch_to -1", Invalid, "'-1' is not an unsigned decimal number"),
        ("switch_to abc", Invalid, "'abc' is not"),
        ("switch_to ''", Invalid, "'' is not"),
        ("switch_to 18446744073709551616", OutOfRange, "does not fit 64 bits"),
        ("clear_stat", Invalid, "the cursor is on 0, which is no cache here"),
        ("free_cache", Invalid, "the cursor is on 0"),
        ("resume_cache /b.img", Invalid, "the cursor is on 0"),
        ("resume_cache b.img", Invalid, "'b.img' is not an absolute path"),
        ("format_cache_device ssd.img", Invalid, "'ssd.img' is not an absolute path; write it out from /"),
        ("format_cache_device ''", Invalid, "'' is not an absolute path"),
        ("create 0 /x 1M", Invalid, "disk id 0 is not possible; ids are 1 to 254"),
        ("create 255 /x 1M", Invalid, "disk id 255 is not possible"),
        ("create +2 /x 1M", Invalid, r"'\+2' is not an id"),
        ("create 2 x 1M", Invalid, "'x' is not an absolute path"),
        ("create 2 /x 1000", Invalid, "a disk of 1000 bytes is not possible"),
        ("create 2 /x 17T", Invalid, "a disk of .* bytes is not possible"),
        ("create 2 /x 1M cache=", Invalid, "'' is not an unsigned decimal number"),
        ("create 2 /x 1M cache=9", NoSuchThing, "there is no cache 9; there is 1"),
        ("create 2 /x 1M cache=300", Invalid, "cache id 300 is not possible"),
        ("create 2 /x 1M cache=1 cache=1", Invalid, "'cache=1' is not understood; say `create ID PATH"),
        ("create 2 /x 1M color=red", Invalid, "'color=red' is not understood"),
        ("create 2 /x 1M 2M", Invalid, "'2M' is not understood"),
        ("create 2 /x 1M name=", Invalid, "'' is no name for a disk"),
        ("create 2 /x 1M name=a/b", Invalid, "'a/b' is no name for a disk"),
        ("create 1 /x 1M", AlreadyThere, "disk 1 exists"),
        ("create 2 /one", AlreadyThere, "/one is disk 1"),
        ("attach 1 1", InUse, "disk 1 is attached to cache 1"),
        ("attach 7 1", NoSuchThing, "there is no disk 7; there is 1"),
        ("detach 7", NoSuchThing, "there is no disk 7"),
        ("detach 99999999999999999999", OutOfRange, "does not fit 64 bits"),
        ("remove 254", NoSuchThing, "there is no disk 254"),
        ("suspend 1 now", Invalid, "'now' is not understood; say `suspend ID"),
        ("suspend 9", NoSuchThing, "there is no disk 9"),
        ("resume 9", NoSuchThing, "there is no disk 9"),
        ("cancel 1", NoSuchThing, "nothing is under way with disk 1"),
    ],
)
async def test_messages_that_are_refused_change_nothing(
    line: str, error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        before = bench.snapshot()
        with pytest.raises(error, match=sentence) as caught:
            await manager.message(line)
        assert type(caught.value) is error
        assert bench.snapshot() == before
        assert (list(manager.caches), list(manager.devices), manager.cursor) == ([1], [1], 0)


words = st.one_of(
    st.sampled_from(
        [*VERBS, *map(str.upper, VERBS), "1", "0", "255", "-1", "/one", "/new", "1M", "cache=1", "name=x", "noflush"]
    ),
    st.text(max_size=6),
)


@settings(max_examples=200)
@given(st.lists(st.lists(words, max_size=5).map(" ".join), max_size=4))
def test_any_line_is_answered_or_refused(lines: list[str]) -> None:
    trio.run(_answered_or_refused, lines, clock=trio.testing.MockClock(autojump_threshold=0))


async def _answered_or_refused(lines: list[str]) -> None:
    bench = Bench()
    await bench.image(segments=2)
    async with bench.mount(devices=(ONE,)) as manager:
        for line in lines:
            try:
                answer = await manager.message(line)
            except LcfsError as exc:
                assert str(exc)
                assert errno.errorcode[exc.errno]
            else:
                assert isinstance(answer, str)


# What they do


async def test_verbs_in_any_case_and_words_in_quotes(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        assert await manager.message("CREATE 2 '/with space' 1M name=\"two words\"\n") == ""
        disk = manager.devices[2]
        assert (disk.path, disk.size, disk.name, disk.cache_id) == ("/with space", MIB, "two words", 0)
        await manager.message("Create 3 /three cache=1")
        assert (manager.devices[3].size, manager.devices[3].cache_id, manager.devices[3].name) == (1 << 30, 1, "disk3")
        await manager.message("create 4 /four name=vier cache=1")
        assert (manager.devices[4].name, manager.devices[4].cache_id) == ("vier", 1)
        await manager.message("create 5 /five 512 cache=0")
        assert (manager.devices[5].size, manager.devices[5].cache_id) == (512, 0)


async def test_switch_to_moves_the_cursor_and_shows_what_is_there(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        answer = await manager.message("switch_to 1")
        assert manager.cursor == 1
        assert answer == manager.status_text()
        assert len(answer.splitlines()) == 2 + 7 + 2 + 16
        answer = await manager.message("switch_to 0")
        assert "segment_header_device: 3188 (<= 4096)" in answer
        assert await manager.message("switch_to 9") == ""
        assert manager.cursor == 9


async def test_clear_stat_clears_the_current_cache(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(ONE, DeviceSpec("/two", id=2, size=DISK, cache=2))) as manager:
        for disk in manager.devices.values():
            await write(disk, 0, page(1))
        await manager.message("switch_to 2")
        await manager.message("clear_stat")
        assert sum(manager.caches[1].stats.rows()) == 1
        assert sum(manager.caches[2].stats.rows()) == 0


async def test_a_whole_life_by_messages(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.storage.add("/new.img", 4 * MIB)
    async with bench.mount() as manager:
        for line in (
            "format_cache_device /new.img",
            "switch_to 7",
            "resume_cache /new.img",
            "create 1 /one 256K",
            "attach 1 7",
        ):
            assert await manager.message(line) in ("", manager.status_text())
        disk = manager.devices[1]
        await write(disk, 0, page(1))
        await manager.message("suspend 1")
        assert disk.suspended
        await manager.message("resume 1")
        assert not disk.suspended
        await manager.message("suspend 1 NoFlush")
        await manager.message("resume 1")
        assert await read(disk, 0, LINE) == page(1)
        await manager.message("detach 1")
        assert disk.cache_id == 0
        await manager.message("free_cache")
        assert list(manager.caches) == [1]
        await manager.message("remove 1")
        assert manager.devices == {}
    assert bench.storage.media["/one"].durable.read(0, LINE) == page(1)
