# SPDX-License-Identifier: GPL-2.0-or-later
import errno

import pytest

from lcfs.engine import errors
from lcfs.engine.errors import LcfsError

NUMBERS = {
    "LcfsError": errno.EINVAL,
    "Invalid": errno.EINVAL,
    "OutOfRange": errno.ERANGE,
    "NoSuchThing": errno.ENOENT,
    "AlreadyThere": errno.EEXIST,
    "InUse": errno.EBUSY,
    "NotPermitted": errno.EPERM,
    "Unsuitable": errno.EINVAL,
    "NoSpace": errno.ENOSPC,
    "Failed": errno.EIO,
    "Missing": errno.ENODEV,
    "Cancelled": errno.ECANCELED,
    "NotACacheImage": errno.EINVAL,
    "NewerVersion": errno.EINVAL,
    "WrongDisk": errno.EINVAL,
    "Damaged": errno.EUCLEAN,
}


def kinds() -> dict[str, type[LcfsError]]:
    return {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LcfsError)}


def test_every_kind_has_its_number() -> None:
    assert {name: kind.errno for name, kind in kinds().items()} == NUMBERS


@pytest.mark.parametrize("name", NUMBERS)
def test_an_error_is_its_sentence(name: str) -> None:
    error = kinds()[name]("disk 3 is no disk; give another")
    assert str(error) == "disk 3 is no disk; give another"
    assert error.exit_code == 1
    other = kinds()[name]("no room", errno=errno.ENOSPC)
    assert other.errno == errno.ENOSPC
    assert error.errno == NUMBERS[name]
