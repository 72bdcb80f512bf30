# SPDX-License-Identifier: GPL-2.0-or-later
"""The process behind a mount: caches up, tree up, served until unmounted, tree down, caches down.

Stopping is always the same walk, whoever asks for it: the tree is unmounted, so that no request comes any more, then
the manager writes what is only in RAM and commits, then the process ends. umount(8), fusermount3 and `lcfs umount`
begin it from outside. A signal begins it from inside:

    first     flush and commit, then unmount; while the tree is busy keep serving it, say what holds it, and try again
              until it is free
    second    take the tree away from whoever holds it; they get errors, nothing acknowledged is lost

SIGTERM, SIGINT and SIGHUP (the terminal of a daemon in the foreground was closed) are one as good as the other.

A signal before the tree is up calls the start off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence

import trio

from lcfs import fuse_loop
from lcfs.commands import daemon_log, live, metrics_server, service
from lcfs.commands.background import CALLED_OFF, Reporter
from lcfs.commands.failure import FAILED, MOUNT_FAILED, MOUNT_INTERRUPTED, CommandFailed
from lcfs.commands.mount_plan import MountPlan
from lcfs.commands.mounts import FS_TYPE, holders_of, mount_at, unmount
from lcfs.commands.run_file import RunFile
from lcfs.commands.trial_mount import require_mountable
from lcfs.engine import FileStorage, Manager, Storage, open_manager
from lcfs.engine.errors import LcfsError
from lcfs.fuse_limits import become_io_flusher
from lcfs.fuse_ops import Operations
from lcfs.sysfs_tree import Tree
from lcfs.tree_metrics import metrics_text

log = logging.getLogger("lcfs.daemon")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

RETRY = 1.0
"""Seconds between two attempts to unmount a busy tree."""


def serve(plan: MountPlan, reporter: Reporter, storage: Storage | None = None) -> int:
    """Mount, serve, stop; the exit code. A failure is told to `reporter`, and once mounted to log and run file.

    `storage` is where images and backings are; None is the file system.
    """
    # until trio takes them: one that came during the trial mount would leave it behind
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    notifier = service.Notifier(os.environ if plan.service else {})
    if notifier:
        reporter = service.ServiceReporter(reporter, notifier)
    try:
        daemon_log.configure(plan, reporter)
        become_io_flusher()
        require_mountable(plan.mountpoint, plan.libfuse_options())
    except CommandFailed as failure:
        reporter.failed(str(failure), failure.exit_code)
        return failure.exit_code
    try:
        return trio.run(Daemon(plan, reporter, storage or FileStorage(), notifier).run)
    finally:
        if plan.pid_file is not None:
            _remove_pid_file(plan.pid_file)


class Daemon:
    """One mount, from its first open to its last close."""

    def __init__(self, plan: MountPlan, reporter: Reporter, storage: Storage, notifier: service.Notifier) -> None:
        self._plan = plan
        self._reporter = reporter
        self._storage = storage
        self._notifier = notifier
        self._manager: Manager | None = None
        """Set once the tree has answered."""
        self._called_off = False
        self._holders = ""
        """Who keeps the tree busy that is to be unmounted."""
        self._run_file: RunFile | None = None

    async def run(self) -> int:
        """The whole life; the exit code."""
        try:
            with trio.open_signal_receiver(*SIGNALS) as signals:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals, nursery)
                    await self._keep(nursery)
                    nursery.cancel_scope.cancel()
        except Exception as exc:
            return self._fail(exc)
        if self._called_off:
            self._reporter.failed(CALLED_OFF, MOUNT_INTERRUPTED)
            return MOUNT_INTERRUPTED
        if self._run_file is not None:
            self._run_file.remove()
        log.info("%s: stopped cleanly", self._plan.mountpoint)
        return 0

    async def _keep(self, outer: trio.Nursery) -> None:
        plan = self._plan
        async with contextlib.AsyncExitStack() as stack:
            listeners: Sequence[trio.SocketListener] = ()
            if plan.options.metrics is not None:  # before anything is opened or made, as it may be refused
                listeners = await stack.enter_async_context(metrics_server.listening(plan.options.metrics))
            manager = await stack.enter_async_context(open_manager(plan.spec(), self._storage, say=self._say))
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve, manager, nursery.cancel_scope)
                if listeners:
                    server = metrics_server.MetricsServer(lambda: metrics_text(manager))
                    nursery.start_soon(server.serve, listeners)
                    self._reporter.note(f"metrics are at {' and '.join(metrics_server.urls(listeners))}")
                self._announce(manager)
                if plan.live:
                    nursery.start_soon(live.show, manager, plan, self._reporter)
                if self._notifier:
                    nursery.start_soon(service.watch, self._notifier, plan.mountpoint, lambda: self._status(manager))
            if self._notifier:
                self._notifier.tell("STOPPING=1")
                outer.start_soon(service.keep_asking, self._notifier, "unmounted; writing what is only in RAM")
            log.info("%s: unmounted; writing what is only in RAM", plan.mountpoint)

    def _status(self, manager: Manager) -> str:
        """One line for `systemctl status`; what keeps a stopping tree busy comes first."""
        caches = [f"cache {c.id} {c.state.split()[0]}, {c.nr_dirty_caches} dirty lines" for c in manager.caches.values()]
        return "; ".join([*([f"stopping, busy: {self._holders}"] if self._holders else []), *caches])

    def _say(self, text: str) -> None:
        if ": recovering, " in text:  # the one thing the engine says again and again
            self._reporter.progress(text)
        else:
            self._reporter.note(text)

    async def _serve(
        self, manager: Manager, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        plan = self._plan
        options = plan.options
        tree = Tree(manager, plan.mountpoint, mode=options.mode)
        operations = Operations(tree, uid=options.uid, gid=options.gid, writeback_cache=options.writeback_cache)
        manager.on_resize.append(operations.forget_size)
        await fuse_loop.serve(operations, plan.mountpoint, plan.libfuse_options(), task_status=task_status)
        scope.cancel()

    def _announce(self, manager: Manager) -> None:
        self._manager = manager
        mount = mount_at(self._plan.mountpoint)  # not stat(2), which this thread itself would have to answer
        try:
            if mount is not None:
                manager.own_device = os.makedev(*map(int, mount.device.split(":")))
                self._run_file = RunFile(mount.device)
        except OSError as error:
            log.info("no run file, so lcfs umount cannot wait for this daemon: %s", error)
        if self._plan.pid_file is not None:
            _write_pid_file(self._plan.pid_file)
        log.info("%s: mounted", self._plan.mountpoint)
        self._reporter.mounted()

    async def _obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        stopping = False
        async for number in signals:
            name = signal.Signals(number).name
            if self._manager is None:
                self._called_off = True
                nursery.cancel_scope.cancel()
            elif not stopping:
                stopping = True
                log.info("%s: stopping", name)
                self._notifier.tell("STOPPING=1", "STATUS=stopping")
                nursery.start_soon(self._stop, self._manager)
            else:
                log.warning("%s again: %s is taken away from whoever holds it", name, self._plan.mountpoint)
                fuse_loop.stop()

    async def _stop(self, manager: Manager) -> None:
        """Unmount as soon as nobody holds the tree; `fuse_loop.serve` returns then."""
        mountpoint = self._plan.mountpoint
        for cache in manager.caches.values():
            try:
                await cache.flush_current_buffer()
                await cache.commit_super_block()
            except (LcfsError, OSError) as error:
                log.error("cache %d could not write what is only in RAM: %s", cache.id, error)
        while True:
            try:
                await trio.to_thread.run_sync(unmount, mountpoint, abandon_on_cancel=True)
                return
            except OSError:
                holders = await trio.to_thread.run_sync(holders_of, mountpoint, abandon_on_cancel=True)
            except CommandFailed as failure:
                mount = mount_at(mountpoint)
                if mount is None or mount.fs_type != FS_TYPE:
                    return  # somebody else, or a second signal, was faster
                holders = str(failure)
            if holders != self._holders:
                self._holders = holders
                self._notifier.tell(f"STATUS={self._status(manager)}")
                log.warning("%s is busy and is served on: %s; a second signal takes it away", mountpoint, holders)
            await trio.sleep(RETRY)

    def _fail(self, exc: Exception) -> int:
        sentence = _sentence(exc)
        if self._manager is None:
            self._reporter.failed(sentence, MOUNT_FAILED)
            return MOUNT_FAILED
        log.error("%s: no clean stop: %s", self._plan.mountpoint, sentence)
        if self._plan.log_file is not None:
            self._reporter.failed(sentence, FAILED)
        if self._run_file is not None:
            self._run_file.failed(sentence)
        return FAILED


def _sentence(exc: Exception) -> str:
    """What went wrong, from the first of a group that was foreseen; the traceback of another is logged."""
    leaves = list(_leaves(exc))
    for leaf in leaves:
        if isinstance(leaf, LcfsError):
            return str(leaf)
    for leaf in leaves:
        if isinstance(leaf, OSError):
            return f"{leaf.filename}: {leaf.strerror}" if leaf.filename else str(leaf)
    log.error("an error nobody foresaw", exc_info=exc)
    return f"internal error, please report it: {leaves[0]!r}"


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _write_pid_file(path: str) -> None:
    try:
        with open(path, "w", encoding="ascii", opener=_not_through_a_link) as pid_file:
            pid_file.write(f"{os.getpid()}\n")
    except OSError as error:
        log.error("%s could not be written: %s", path, error.strerror)


def _not_through_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def _remove_pid_file(path: str) -> None:
    """Unless it is another daemon's by now."""
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding="ascii") as pid_file:
            pid = int(pid_file.read())
        if pid == os.getpid():
            os.unlink(path)
