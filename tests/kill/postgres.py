# SPDX-License-Identifier: GPL-2.0-or-later
"""PostgreSQL: pgbench for the load, clients with a witness table beside it."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import BinaryIO

import attrs

from tests.kill.witness import Witness, nr_acknowledged, statement_of
from tests.kill.workload import PATIENCE, Workload

USER = "postgres"
"""It refuses to run as root; the distribution's package makes this user."""
NR_CLIENTS = 2
PGBENCH_CLIENTS = 3

SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "restart_after_crash": "off",
    # small, so that checkpoints and evictions happen within a round
    "shared_buffers": "4MB",
    "min_wal_size": "4MB",
    "max_wal_size": "8MB",
    "checkpoint_timeout": "30s",
    "autovacuum_naptime": "1s",
}

SCHEMA = f"""
CREATE EXTENSION amcheck;
CREATE TABLE witness (client int, n int, content text, PRIMARY KEY (client, n));
CREATE TABLE tally (client int PRIMARY KEY, total bigint NOT NULL);
INSERT INTO tally SELECT client, 0 FROM generate_series(0, {NR_CLIENTS - 1}) AS client;
"""

CONTENT = "repeat(md5({n}::text), 1 + {n} % 60)"

COMMIT = """\
WITH added AS (UPDATE tally SET total = total + {n} WHERE client = {client}) \
INSERT INTO witness VALUES ({client}, {n}, {content}) RETURNING n;
"""
"""One statement, so one transaction; psql prints its row when the server has said that it is committed."""

WITNESSED = f"""
SELECT tally.client, count(n), coalesce(max(n), 0), total = coalesce(sum(n), 0),
       count(*) FILTER (WHERE content <> {CONTENT.format(n="n")})
FROM tally LEFT JOIN witness ON witness.client = tally.client GROUP BY tally.client, total ORDER BY tally.client
"""

BALANCED = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
       (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""


def programs() -> Path | None:
    """The directory of the newest server's programs; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name))
    beside = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(os.path.realpath(beside)).parent if beside else None


def lacks_postgres() -> str | None:
    """What is missing to run it, in one sentence, or None."""
    if programs() is None:
        return "PostgreSQL is not installed; install postgresql, or choose other kinds with --kinds"
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return f"there is no user {USER}, as whom PostgreSQL could run; make one, or choose other kinds with --kinds"
    return None


class Client(threading.Thread):
    """A psql that is given one commit after the other."""

    def __init__(self, command: list[str], number: int, first: int, witness: Path) -> None:
        super().__init__(name=f"client {number}")
        self.number = number
        self._first = first
        self._witness = witness
        self.psql = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self) -> None:
        assert self.psql.stdin is not None and self.psql.stdout is not None
        witness = Witness(self._witness)
        n = self._first
        while True:
            witness.intend({"n": n})
            try:
                self.psql.stdin.write(COMMIT.format(client=self.number, n=n, content=CONTENT.format(n=n)))
                self.psql.stdin.flush()
            except BrokenPipeError:
                break
            if self.psql.stdout.readline() != f"{n}\n":
                break
            witness.acknowledge()
            n += 1
        witness.close()


@attrs.define
class Commits:
    """Of one client: the last acknowledged commit and the last begun."""

    acknowledged: int = 0
    last: int = 0


class Postgres(Workload):
    """A server on ext4; it keeps running between `verify` and `end`."""

    disk_size = "384M"
    cache_sizes = ("16M", "64M")

    def __init__(self, aside: Path) -> None:
        super().__init__(aside)
        self._commits = [Commits() for _ in range(NR_CLIENTS)]
        self._user = pwd.getpwnam(USER)
        found = programs()
        assert found is not None
        self._programs = found
        self._server: subprocess.Popen[bytes] | None = None
        self._pgbench: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []
        self._witnesses: list[Path] = []
        self._starts = 0
        self._sockets = aside / "sockets"
        self._sockets.mkdir()
        os.chown(self._sockets, self._user.pw_uid, self._user.pw_gid)

    def prepare(self, fs: Path) -> None:
        os.chown(fs, self._user.pw_uid, self._user.pw_gid)
        options = ["--no-instructions", "--data-checksums", "--wal-segsize=1", "--auth=trust", "--username", USER]
        self._run("initdb", *options, "--pgdata", str(fs / "data"))
        self._start_server(fs)
        try:
            self._run("createdb", *self._connection(), "bench")
            self._run("pgbench", *self._connection(), "--quiet", "-i", "-s", "1", "bench")
            self._query(SCHEMA)
        finally:
            self.release()

    def start(self, fs: Path, rng: random.Random) -> None:
        self._starts += 1
        if self._server is None:
            self._start_server(fs)
        connection = self._connection()
        words = ["-n", "-c", str(PGBENCH_CLIENTS), "-T", "600", "--random-seed", str(rng.getrandbits(31)), "bench"]
        with self._log() as log:
            self._pgbench = subprocess.Popen([self._program("pgbench"), *connection, *words], stdout=log, stderr=log)
        psql = [self._program("psql"), *connection, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "bench"]
        self._witnesses = [self.aside / f"witness.{self._starts}.{number}" for number in range(NR_CLIENTS)]
        self._clients = [
            Client(psql, number, self._commits[number].last + 1, witness) for number, witness in enumerate(self._witnesses)
        ]
        for client in self._clients:
            client.start()

    def nr_acknowledged(self) -> int:
        return sum(nr_acknowledged(witness) for witness in self._witnesses)

    def ended(self) -> list[str]:
        processes: dict[str, subprocess.Popen[bytes] | subprocess.Popen[str] | None]
        processes = {"the server": self._server, "pgbench": self._pgbench}
        processes |= {client.name: client.psql for client in self._clients}
        ended = [name for name, process in processes.items() if process is not None and process.poll() is not None]
        return [f"{name} ended by itself: {self._said()}" for name in ended]

    def end(self, killed_at: int) -> list[str]:
        wrong = self._quit(signal.SIGQUIT)
        self._end_clients()
        for commits, witness in zip(self._commits, self._witnesses, strict=True):
            heard = statement_of(witness, killed_at)
            if heard.acknowledged:
                commits.last = commits.acknowledged = heard.acknowledged[-1]["n"]
            if heard.undecided:
                commits.last = heard.undecided[-1]["n"]
        return wrong

    def verify(self, fs: Path) -> list[str]:
        self._start_server(fs)
        wrong = self._check_trees()
        for row in self._query(WITNESSED):
            client, count, last, totals, bad = row.split("|")
            commits = self._commits[int(client)]
            if not commits.acknowledged <= int(last) <= commits.last:
                wrong.append(f"client {client}: last commit {last}, not one of {commits.acknowledged} to {commits.last}")
            if count != last:
                wrong.append(f"client {client}: {count} commits of {last} are there")
            if totals != "t":
                wrong.append(f"client {client}: its tally is not the sum of its commits")
            if bad != "0":
                wrong.append(f"client {client}: {bad} rows do not hold what was written")
            commits.acknowledged = commits.last = int(last)
        (balances,) = self._query(BALANCED)
        if len(set(balances.split("|"))) != 1:
            wrong.append(f"pgbench's accounts, tellers, branches and history differ: {balances}")
        return wrong

    def release(self) -> None:
        self._quit(signal.SIGINT)

    def abandon(self) -> None:
        self._quit(signal.SIGQUIT)
        self._end_clients()

    def _end_clients(self) -> None:
        """They end with the server; pgbench is told to."""
        if self._pgbench is not None:
            self._pgbench.kill()
            self._pgbench.wait()
            self._pgbench = None
        for client in self._clients:
            client.join(timeout=PATIENCE)
            client.psql.kill()
            client.join()
            client.psql.communicate()
        self._clients = []

    def _check_trees(self) -> list[str]:
        command = [self._program("pg_amcheck"), *self._connection(), "--heapallindexed", "bench"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        return [] if done.returncode == 0 else [f"pg_amcheck: {done.stdout}{done.stderr}"]

    def _start_server(self, fs: Path) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [self._program("postgres"), "-D", str(fs / "data"), "-k", str(self._sockets), *settings]
        with self._log() as log:
            self._server = subprocess.Popen(
                command,
                user=self._user.pw_uid,
                group=self._user.pw_gid,
                extra_groups=[],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        deadline = time.monotonic() + PATIENCE
        ready = [self._program("pg_isready"), "-q", *self._connection()]
        while subprocess.run(ready).returncode != 0:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not start: {self._said()}")
            time.sleep(0.05)

    def _quit(self, number: signal.Signals) -> list[str]:
        """End the server, by its own pid: SIGINT stops it cleanly, SIGQUIT at once; it ends its children itself."""
        server, self._server = self._server, None
        if server is None:
            return []
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        server.send_signal(number)
        try:
            server.wait(timeout=PATIENCE)
            return []
        except subprocess.TimeoutExpired:
            for pid in [*map(int, children.read_text().split()), server.pid]:
                os.kill(pid, signal.SIGKILL)
            server.wait()
            return [f"PostgreSQL did not end in {PATIENCE:.0f} s"]

    def _program(self, name: str) -> str:
        return str(self._programs / name)

    def _connection(self) -> list[str]:
        return ["-h", str(self._sockets), "-U", USER]

    def _query(self, sql: str) -> list[str]:
        done = self._run("psql", *self._connection(), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "bench")
        return done.splitlines()

    def _run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [self._program(program), *words],
            user=self._user.pw_uid,
            group=self._user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}{self._said()}"
        return done.stdout

    def _log(self) -> BinaryIO:
        return open(self.aside / "postgres.log", "ab")

    def _said(self) -> str:
        return (self.aside / "postgres.log").read_text(errors="replace")[-3000:]
