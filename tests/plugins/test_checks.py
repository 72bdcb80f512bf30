# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks on every test can fail: small suites that break each rule, run by a pytest of their own."""

from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty suite under the same plugins, outside CI."""
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(
        'pytest_plugins = ["tests.plugins.requirements", "tests.plugins.log_check", "tests.plugins.leftovers"]'
    )
    pytester.makeini("[pytest]\nmarkers =\n    mount\n    loop\n")
    return pytester


def test_log_check(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import logging
        import pytest

        log = logging.getLogger("lcfs.part")

        def test_unannounced():
            log.warning("disk 7 is slow")

        def test_announced(expect_log):
            expectation = expect_log("disk [0-9] is slow")
            log.warning("disk %d is slow", 7)
            log.warning("disk %d is slow", 8)
            assert len(expectation.records) == 2

        def test_announced_afterwards(expect_log):
            log.warning("disk 7 is slow")
            expect_log("slow")

        def test_did_not_come(expect_log):
            expect_log("slow")

        def test_came_too_mildly(expect_log):
            log.warning("disk 7 is slow")
            expect_log("slow", level=logging.ERROR, at_least=0)

        def test_may_come(expect_log):
            expect_log("slow", at_least=0)

        @pytest.fixture
        def noisy_end():
            yield
            log.error("too late")

        def test_at_the_end(noisy_end):
            log.info("nothing to see")
    """)
    result = suite.runpytest_subprocess("-v", "--tb=line")
    result.assert_outcomes(passed=4, failed=3, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_unannounced FAILED*",
            "*::test_did_not_come FAILED*",
            "*::test_came_too_mildly FAILED*",
            "*::test_at_the_end ERROR*",
        ]
    )


SKIPPING = """
    import pytest

    @pytest.mark.mount
    def test_inside():
        pytest.skip("why not")

    @pytest.mark.loop
    @pytest.mark.skip(reason="why not")
    def test_by_marker():
        raise AssertionError

    def test_plain():
        pytest.skip("why not")
"""


def test_skip_outside_ci(suite: pytest.Pytester) -> None:
    suite.makepyfile(SKIPPING)
    suite.runpytest_subprocess().assert_outcomes(skipped=3)


def test_skip_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(SKIPPING)
    result = suite.runpytest_subprocess()
    outcomes = result.parseoutcomes()
    assert (outcomes.get("failed", 0) + outcomes.get("errors", 0), outcomes["skipped"]) == (2, 1)
    result.stdout.fnmatch_lines(["*test may not be skipped in CI: *why not*"])


def test_module_that_skips_itself_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    suite.makepyfile('import pytest\npytest.skip("why not", allow_module_level=True)\n')
    suite.runpytest_subprocess().assert_outcomes(errors=1)


def test_requirement_that_is_missing(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        from tests.plugins import requirements

        requirements.REQUIREMENTS["mount"] = lambda: "there is no /dev/fuse"

        @pytest.fixture
        def lcfs():
            raise AssertionError("not even the fixture is made")

        def test_mounts(lcfs):
            raise AssertionError
    """)
    result = suite.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*there is no /dev/fuse*"])


@pytest.mark.loop
def test_leftovers(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import subprocess

        def test_leaves(tmp_path):
            (tmp_path / "image").write_bytes(bytes(1 << 20))
            (tmp_path / "t").mkdir()
            subprocess.run(["losetup", "-f", tmp_path / "image"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "t"], check=True)
    """)
    base = suite.path / "base"
    try:
        result = suite.runpytest_subprocess(f"--basetemp={base}")
    finally:
        directory = base / "test_leaves0"
        suite.run("umount", directory / "t")
        for line in suite.run("losetup", "-j", directory / "image").outlines:
            suite.run("losetup", "-d", line.partition(":")[0])
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"tmpfs mounted on {directory}/t; *", f"/dev/loop* bound to {directory}/image; *"])
