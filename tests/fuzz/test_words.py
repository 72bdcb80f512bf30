# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything a person or a script can say: control lines, attribute values, sizes, ids, options, command lines."""

from __future__ import annotations

import contextlib
import io
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lcfs.commands.arguments import parse_id, parse_size
from lcfs.commands.command_line import build_parser
from lcfs.commands.mount_options import parse_options
from lcfs.commands.mount_words import parse_cache, parse_device
from lcfs.engine.errors import LcfsError
from lcfs.engine.messages import VERBS, parse_message
from lcfs.engine.messages import parse_size as parse_message_size
from lcfs.engine.tunables import parse_unsigned
from lcfs.testing.explore import in_trio
from lcfs.tree_attributes import BLOCK_ATTRIBUTES, CACHE_ATTRIBUTES
from tests.fuzz.mutations import ROUNDS
from tests.tree.world import TWO_DISKS, World, open_world

many = settings(
    max_examples=ROUNDS * 3,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

numbers = st.one_of(
    st.integers(-2, 300).map(str),
    st.sampled_from(["0", "1", "254", "255", "256", "+1", "-1", "00", "18446744073709551615", "18446744073709551616"]),
    st.sampled_from(["9" * 30, "1e3", "0x10", " 1", "1 ", "1\n", "1\n\n", "\u0661", "1_0", "", "1.5", "inf"]),
)
units = st.sampled_from(["", "K", "k", "M", "G", "T", "P", "KiB", "B", " K"])
sizes = st.builds(str.__add__, numbers, units)
paths = st.one_of(
    st.sampled_from(
        ["/new.img", "/ssd.img", "/one.img", "relative", "/", "", "/a b", "/x\0y", "//..//one.img", "/" + "l" * 5000]
    ),
    st.text(max_size=20),
)
words = st.one_of(
    numbers,
    sizes,
    paths,
    st.sampled_from(["cache=1", "cache=", "cache=x", "name=n", "name=/", "size=1M", "noflush"]),
    st.text(max_size=8),
)
verbs = st.one_of(st.sampled_from([*VERBS, *(verb.upper() for verb in VERBS)]), st.text(max_size=12))


@st.composite
def lines(draw: st.DrawFn) -> str:
    quote = draw(st.sampled_from(["", "", "", "'", '"', "\\"]))
    return " ".join([draw(verbs), *draw(st.lists(words, max_size=6))]) + quote


def require_refusal(exc: LcfsError) -> None:
    """One sentence, with an errno and an exit code, that quotes no more than a little of what was said."""
    assert str(exc) and "\n" not in str(exc) and len(str(exc)) < 12_000
    assert exc.errno > 0 and exc.exit_code > 0


@many
@given(lines())
@example("create 3 /x 18446744073709551616")
def test_control_lines_are_understood_or_refused(line: str) -> None:
    with contextlib.suppress(LcfsError):
        parse_message(line)


async def require_works(world: World) -> None:
    """Whatever was said to the mount, its disks can be read."""
    for device in world.manager.devices.values():
        device.resume()
        assert len(await device.read(0, 512)) == 512


@many
@given(st.lists(lines(), min_size=1, max_size=8))
@example(["create 3 /new.img 4G cache=1", "suspend 1 noflush", "switch_to 254", "detach 1", "attach 1 1", "remove 3"])
def test_any_messages_leave_a_mount_that_works(tmp_path: Path, said: list[str]) -> None:
    async def talk() -> None:
        async with open_world(tmp_path, TWO_DISKS) as world:
            for line in said:
                try:
                    await world.manager.message(line)
                except LcfsError as exc:
                    require_refusal(exc)
                await require_works(world)

    in_trio(talk)


values = st.one_of(numbers.map(str.encode), st.binary(max_size=30), st.sampled_from([b"1" * 4096, b"\0", b"\xff\n", b"1\x00"]))
attributes = st.one_of(
    st.tuples(st.just("caches/1"), st.sampled_from([row.name for row in CACHE_ATTRIBUTES if row.store is not None])),
    st.tuples(st.sampled_from(["block/1", "block/2"]), st.sampled_from([row.name for row in BLOCK_ATTRIBUTES if row.store])),
).map("/".join)


@many
@given(st.lists(st.tuples(attributes, values), min_size=1, max_size=8))
def test_any_value_of_any_attribute_is_taken_or_changes_nothing(tmp_path: Path, stored: list[tuple[str, bytes]]) -> None:
    async def store_all() -> None:
        async with open_world(tmp_path, TWO_DISKS) as world:
            for path, value in stored:
                before = world.read(path)
                try:
                    await world.store(path, value)
                except (LcfsError, OSError) as exc:
                    assert exc.errno
                    assert world.read(path) == before, "a value that was refused changed something"
                assert len(world.read(path).encode()) <= 4096
                await require_works(world)

    in_trio(store_all)


@many
@given(sizes)
def test_the_two_readers_of_sizes_agree(text: str) -> None:
    """Of the command line (which takes no 0) and of messages."""
    command: int | None
    try:
        command = parse_size(text)
    except ValueError:
        command = None
    try:
        message: int | None = parse_message_size(text)
    except LcfsError:
        message = None
    if command is not None:
        assert command == message
    elif message is not None:
        assert message == 0 or message >= 1 << 63


@many
@given(st.one_of(numbers, st.text(max_size=12)))
def test_numbers_are_read_as_the_kernel_does(text: str) -> None:
    digits = text.removesuffix("\n").removeprefix("+")
    wanted = digits != "" and set(digits) <= set(string.digits) and int(digits) < 1 << 64
    try:
        number = parse_unsigned(text)
    except LcfsError as exc:
        require_refusal(exc)
        assert not wanted
    else:
        assert wanted and number == int(digits)
    with contextlib.suppress(ValueError):
        assert 1 <= parse_id(text, what="disk") <= 254


@many
@given(
    st.one_of(paths, st.builds("{}={}".format, numbers, paths), st.builds("{},size={},cache={}".format, paths, sizes, numbers))
)
def test_mount_words(text: str) -> None:
    for parse in (parse_cache, parse_device):
        try:
            word = parse(text)
        except ValueError as exc:
            assert str(exc) and "\n" not in str(exc)
        else:
            assert word.path.startswith("/") and "\n" not in word.path and "\0" not in word.path


option = st.one_of(
    st.sampled_from(
        ["ro", "rw", "nonempty", "allow_other", "x-systemd.automount", "nofail", "fsname=a=b", "mode=0999", "uid="]
    ),
    st.builds(
        "{}={}".format, st.sampled_from(["uid", "gid", "mode", "fsname", "max_read"]), st.one_of(numbers, st.text(max_size=5))
    ),
    st.text(max_size=10),
)


@many
@given(st.lists(st.lists(option, max_size=4).map(",".join), max_size=3))
def test_mount_options(given_words: list[str]) -> None:
    try:
        options = parse_options(given_words)
    except ValueError as exc:
        assert str(exc)
    else:
        assert 0 <= options.mode <= 0o777
        assert all(number is None or 0 <= number < (1 << 32) - 1 for number in (options.uid, options.gid))


@many
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["mount", "cache", "device", "create", "status", "-m", "--cache", "--json", "-o", "--"]), words
        ),
        max_size=6,
    )
)
def test_command_lines_are_understood_or_end_with_a_usage_error(given_words: list[str]) -> None:
    parser = build_parser()
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
        try:
            parser.parse_args(given_words)
        except SystemExit as exc:
            assert exc.code in (0, 1, 2, 16), exc.code
            assert exc.code == 0 or told.getvalue()


@pytest.mark.parametrize("text", ["9" * 5000, "1" * 4301 + "K"])
def test_a_number_of_thousands_of_digits_is_no_work(text: str) -> None:
    """int() of so many digits would raise an error of its own."""
    for parse, error in ((parse_size, ValueError), (parse_message_size, LcfsError), (parse_unsigned, LcfsError)):
        with pytest.raises(error):
            parse(text)
