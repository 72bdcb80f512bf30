# SPDX-License-Identifier: GPL-2.0-or-later
"""The oracle is tried on histories small enough to say by hand what is right."""

import itertools

import pytest

from lcfs.testing.model import GONE, Model, Violation, Write
from lcfs.testing.tags import tagged

SIZE = 4 * 4096


class Disks:
    """Contents of disks 1 and 2 put together from writes."""

    def __init__(self) -> None:
        self.contents = {1: bytearray(SIZE), 2: bytearray(SIZE)}

    def put(self, *writes: Write, sectors: slice = slice(None)) -> "Disks":
        for write in writes:
            units = [(at, write.data[at : at + 512]) for at in range(0, len(write.data), 512)]
            for at, unit in units[sectors]:
                begin = write.offset + at
                self.contents[write.disk][begin : begin + len(unit)] = unit
        return self


def model(cache: int | None = 1) -> Model:
    made = Model()
    made.add_disk(1, SIZE, cache)
    made.add_disk(2, SIZE, cache)
    return made


def write(made: Model, disk: int, offset: int, length: int = 4096) -> Write:
    request = made.begin_write(disk, offset, length)
    request.acknowledge()
    return request


def barrier(made: Model, disk: int) -> None:
    made.begin_barrier(disk).done()


def broken(made: Model, disks: Disks, at: float | None = None) -> str:
    """The promise that `check_recovered` finds broken."""
    with pytest.raises(Violation) as caught:
        made.check_recovered(disks.contents, *([] if at is None else [at]))
    return caught.value.promise


def test_any_prefix_is_right_and_nothing_else() -> None:
    made = model()
    writes = [write(made, 1, 0), write(made, 2, 0), write(made, 1, 4096), write(made, 2, 8192)]
    for kept in itertools.product([False, True], repeat=4):
        disks = Disks().put(*(w for w, there in zip(writes, kept, strict=True) if there))
        if list(kept) == sorted(kept, reverse=True):
            made.check_recovered(disks.contents)
        else:
            assert broken(made, disks) == "R3"


def test_a_barrier_makes_what_came_before_it_durable_on_its_disk() -> None:
    made = model()
    first, second = write(made, 1, 0), write(made, 1, 4096)
    barrier(made, 1)
    later = write(made, 1, 0)
    assert broken(made, Disks()) == "R1"
    assert broken(made, Disks().put(first)) == "R1"
    made.check_recovered(Disks().put(first, second).contents)
    made.check_recovered(Disks().put(first, second, later).contents)


def test_an_older_version_than_the_durable_one_is_never_right() -> None:
    made = model()
    first, second = write(made, 1, 0), write(made, 1, 0)
    made.check_recovered(Disks().put(first).contents)
    barrier(made, 1)
    assert broken(made, Disks().put(first)) == "R1"
    made.check_recovered(Disks().put(second).contents)


def test_a_durable_write_drags_what_was_acknowledged_before_it_on_the_other_disk() -> None:
    made = model()
    other, mine = write(made, 2, 0), write(made, 1, 0)
    barrier(made, 1)
    assert broken(made, Disks().put(mine)) == "R3"
    made.check_recovered(Disks().put(other, mine).contents)


def test_a_barrier_of_one_disk_promises_nothing_to_a_later_write_of_another() -> None:
    made = model()
    mine, other = write(made, 1, 0), write(made, 2, 0)
    barrier(made, 1)
    made.check_recovered(Disks().put(mine).contents)
    made.check_recovered(Disks().put(mine, other).contents)


def test_a_barrier_that_has_not_returned_promises_nothing() -> None:
    made = model()
    write(made, 1, 0)
    made.begin_barrier(1)
    made.check_recovered(Disks().contents)


def test_what_is_acknowledged_during_a_barrier_is_not_covered() -> None:
    made = model()
    request = made.begin_write(1, 0, 4096)
    pending = made.begin_barrier(1)
    request.acknowledge()
    pending.done()
    made.check_recovered(Disks().contents)


def test_invention_is_found() -> None:
    made = model()
    mine = write(made, 1, 0)
    elsewhere = Disks().put(mine)
    elsewhere.contents[2][:512] = mine.data[:512]
    assert broken(made, elsewhere) == "R2"
    shifted = Disks().put(mine)
    shifted.contents[1][512:1024] = mine.data[:512]
    assert broken(made, shifted) == "R2"
    torn = Disks().put(mine)
    torn.contents[1][0:100] = bytes(100)
    assert broken(made, torn) == "R2"
    never = Disks().put(mine)
    never.contents[1][0:512] = tagged(1, 0, 512, 99)
    assert broken(made, never) == "R2"


def test_a_line_of_a_request_is_recovered_whole_or_not_at_all() -> None:
    made = model()
    request = write(made, 1, 0, 8192)
    made.check_recovered(Disks().put(request, sectors=slice(0, 8)).contents)
    made.check_recovered(Disks().put(request, sectors=slice(8, 16)).contents)
    assert broken(made, Disks().put(request, sectors=slice(0, 3))) == "R3"
    assert broken(made, Disks().put(request, sectors=slice(4, 12))) == "R3"


def test_a_write_that_was_not_acknowledged_may_be_there_or_not() -> None:
    made = model()
    made.begin_write(1, 0, 4096)
    failed = made.begin_write(1, 4096, 4096)
    later = write(made, 1, 8192)
    barrier(made, 1)
    made.check_recovered(Disks().put(later).contents)
    made.check_recovered(Disks().put(later, failed).contents)


def test_requests_side_by_side_have_no_order_and_their_followers_do() -> None:
    made = model()
    one, two = made.begin_write(1, 0, 4096), made.begin_write(2, 0, 4096)
    one.acknowledge()
    two.acknowledge()
    after = write(made, 1, 4096)
    made.check_recovered(Disks().put(one).contents)
    made.check_recovered(Disks().put(two).contents)
    assert broken(made, Disks().put(one, after)) == "R3"
    made.check_recovered(Disks().put(one, two, after).contents)


def test_states_of_the_past_are_judged_by_what_was_known_then() -> None:
    made = model()
    before = made.now()
    first = write(made, 1, 0)
    written = made.now()
    barrier(made, 1)
    flushed = made.now()
    made.check_recovered(Disks().contents, before)
    made.check_recovered(Disks().contents, written)
    assert broken(made, Disks(), flushed) == "R1"
    assert broken(made, Disks().put(first), before) == "R2"


def test_without_a_cache_each_sector_is_for_itself_and_a_barrier_still_counts() -> None:
    made = model(cache=None)
    first, second = write(made, 1, 0), write(made, 1, 4096)
    made.check_recovered(Disks().put(second).contents)
    made.check_recovered(Disks().put(first, sectors=slice(2, 5)).contents)
    barrier(made, 1)
    assert broken(made, Disks().put(second)) == "R1"


def test_a_barrier_after_an_attach_covers_what_was_written_before_it() -> None:
    made = model(cache=None)
    first = write(made, 1, 0)
    made.begin_change(1, 1).done()
    second = write(made, 1, 4096)
    made.check_recovered(Disks().put(second).contents)
    barrier(made, 1)
    assert broken(made, Disks().put(second)) == "R1"
    made.check_recovered(Disks().put(first, second).contents)


def test_a_detach_leaves_everything_durable() -> None:
    made = model()
    first = write(made, 1, 0)
    made.begin_change(1, None).done()
    second = write(made, 1, 4096)
    assert broken(made, Disks().put(second)) == "R1"
    made.check_recovered(Disks().put(first).contents)


def test_unaligned_writes_have_the_bytes_around_them() -> None:
    made = model()
    first = write(made, 1, 0)
    second = write(made, 1, 100, 5000)
    disks = Disks().put(first)
    made.check_recovered(disks.contents)
    disks.contents[1][100:5100] = second.data
    made.check_recovered(disks.contents)
    made.check_read(1, 0, disks.contents[1])
    assert made.expected(1, 90, 6000) == disks.contents[1][90:6090]
    disks.contents[1][4096:5100] = bytes(1004)
    made.check_recovered(disks.contents)
    disks.contents[1][512:1024] = first.data[512:1024]
    assert broken(made, disks) == "R3"


def test_content_that_occurs_twice_is_taken_for_whichever_explains_what_is_there() -> None:
    made = model()
    first = write(made, 1, 0)
    other = write(made, 2, 0)
    again = write(made, 1, 3, 1)  # one byte that is the same in every tag of this sector
    assert made.expected(1, 0, 512) == first.data[:512]
    made.check_recovered(Disks().put(first).contents)
    barrier(made, 1)
    last = write(made, 1, 4096)
    made.check_recovered(Disks().put(first, other).contents)
    made.check_recovered(Disks().put(first, other, last).contents)
    assert broken(made, Disks().put(first)) == "R3"
    assert again.data == b"\0"


def test_reads_see_the_newest_and_while_requests_are_in_flight_either() -> None:
    made = model()
    first = write(made, 1, 0)
    began = made.now()
    second = made.begin_write(1, 0, 4096)
    made.check_read(1, 0, first.data, began)
    made.check_read(1, 0, second.data, began)
    made.check_read(1, 0, first.data[:512] + second.data[512:], began)
    with pytest.raises(Violation, match="not write 1 to sector 0 of disk 1 or write 2 to"):
        made.check_read(1, 0, bytes(4096), began)
    second.acknowledge()
    made.check_read(1, 0, first.data, began)
    made.check_read(1, 100, second.data[100:700])
    with pytest.raises(Violation, match="reads write 1 to sector 0 of disk 1, not write 2 to"):
        made.check_read(1, 0, first.data)
    with pytest.raises(Violation):
        made.check_read(1, 100, first.data[100:300])
    assert made.expected(1, 500, 1000) == second.data[500:1500]


def test_a_disk_that_begins_with_content() -> None:
    made = Model()
    base = tagged(1, 0, SIZE, 1000)
    made.add_disk(1, SIZE, 1, base)
    made.check_recovered({1: base})
    made.check_read(1, 100, base[100:5000])
    first = write(made, 1, 512, 512)
    made.check_recovered({1: base})
    made.check_recovered({1: base[:512] + first.data + base[1024:]})
    for wrong in (bytes(SIZE), base[:1024] + bytes(512) + base[1536:]):
        with pytest.raises(Violation, match="R2"):
            made.check_recovered({1: wrong})


def test_a_change_of_cache_is_done_or_not_while_it_is_in_flight_and_done_afterwards() -> None:
    made = model()
    before = made.now()
    change = made.begin_change(1, None)
    during = made.now()
    change.done()
    made.check_caches({1: 1, 2: 1}, before)
    made.check_caches({1: None, 2: 1}, during)
    made.check_caches({1: 1, 2: 1}, during)
    made.check_caches({1: None, 2: 1})
    for wrong, at in (({1: None}, before), ({1: 2}, during), ({1: 1}, float("inf")), ({2: None}, during)):
        with pytest.raises(Violation, match="R9"):
            made.check_caches(wrong, at)


def test_after_the_death_of_the_process_older_versions_remain_and_lost_ones_never_return() -> None:
    made = model()
    first, second, third = write(made, 1, 0), made.begin_write(1, 0, 4096), write(made, 1, 0)
    killed = made.now()
    made.settle(Disks().put(second).contents)
    made.check_read(1, 0, second.data)
    made.check_recovered(Disks().contents)
    made.check_recovered(Disks().put(first).contents)
    assert broken(made, Disks().put(third)) == "R2"
    made.check_recovered(Disks().put(third).contents, killed)
    barrier(made, 1)
    made.check_recovered(Disks().put(second).contents)
    assert broken(made, Disks().put(first)) == "R1"


def test_pruning_forgets_only_what_cannot_come_back() -> None:
    made = model()
    writes = [write(made, 1, 0) for _ in range(3)]
    barrier(made, 1)
    last = write(made, 1, 0)
    made.prune()
    made.check_recovered(Disks().put(writes[2]).contents)
    made.check_recovered(Disks().put(last).contents)
    with pytest.raises(Violation):
        made.check_recovered(Disks().put(writes[1]).contents)


def test_a_request_is_cut_at_the_end_of_the_disk() -> None:
    made = model()
    request = made.begin_write(1, SIZE - 512, 4096)
    assert len(request.data) == 512


def test_a_disk_that_is_created_and_removed() -> None:
    made = model()
    made.add_disk(3, SIZE, GONE)
    before = made.now()
    creation = made.begin_change(3, 1)
    during = made.now()
    creation.done()
    first = write(made, 3, 0)
    removal = made.begin_change(3, GONE)
    removing = made.now()
    removal.done()
    for at, allowed in ((before, {GONE}), (during, {GONE, 1}), (removing, {1, GONE}), (float("inf"), {GONE})):
        for cache in (GONE, 1, None):
            if cache in allowed:
                made.check_caches({3: cache}, at)
            else:
                with pytest.raises(Violation, match="R9"):
                    made.check_caches({3: cache}, at)
    made.check_recovered(Disks().contents)
    with pytest.raises(Violation, match="R1"):
        made.check_recovered({**Disks().contents, 3: bytes(SIZE)})
    made.check_recovered({**Disks().contents, 3: first.data + bytes(SIZE - len(first.data))})
