#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Sets up this checkout: distribution packages (when root), ./.venv, lcfs installed editable in it.
# Run it as often as you like: what is there is left alone. PYTHON=/path/to/python3 chooses the interpreter.
# "setup.sh kill" also installs what make kill needs.
set -euo pipefail
cd "$(dirname "$0")/.."

# One set-up at a time in one checkout.
exec 9<Makefile
flock 9

# To build pyfuse3 and to mount.
build_packages=(gcc libc6-dev pkg-config libfuse3-dev fuse3)
# What the tests drive a mounted disk with.
test_packages=(
    attr curl e2fsprogs fio kmod libnbd-bin mandoc mount nbdkit qemu-system-common qemu-utils sqlite3 strace systemd util-linux
    xfsprogs
)
# What make kill runs besides.
kill_packages=(postgresql)

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Prints those of its arguments that are not installed.
missing_of() {
    local package
    for package in "$@"; do installed "$package" || printf '%s ' "$package"; done
}

apt_updated=no
apt_log=$(mktemp)
trap 'rm -f "$apt_log"' EXIT

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >>"$apt_log" 2>&1; }

apt_install() {
    say "installing $*"
    if [ $apt_updated = no ]; then
        apt_get update || say "apt-get update failed; trying with the package lists that are here"
        apt_updated=yes
    fi
    if ! apt_get install -y --no-install-recommends "$@"; then
        tail -n 40 "$apt_log" >&2
        die "apt-get could not install: $*; see its messages above, then run make again"
    fi
}

# Installs what is missing, or says in one sentence what a person with root has to install.
want() {
    local missing
    read -ra missing <<<"$(missing_of "$@")"
    [ ${#missing[@]} -gt 0 ] || return 0
    if is_root; then
        apt_install "${missing[@]}"
    else
        say "not root, and these packages are missing: ${missing[*]}; install them with:" \
            "sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
}

# The same for a PostgreSQL server, of which the programs are wanted and no running cluster.
want_postgresql() {
    local directory=/etc/postgresql-common/createcluster.d
    [ -n "$(missing_of "$@")" ] || return 0
    if is_root; then
        mkdir -p $directory
        trap 'rm -f "$apt_log" /etc/postgresql-common/createcluster.d/lcfs.conf' EXIT
        echo 'create_main_cluster = false' >$directory/lcfs.conf
    fi
    want "$@"
}

# Prints the first interpreter that is new enough.
find_python() {
    local candidate candidates=(python3 /usr/bin/python3 python3.13 python3.12 python3.11)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Prints the distribution's packages that this interpreter still needs for venv and headers, if it is the distribution's.
python_packages() {
    "$1" - <<'PYTHON'
import os, sys, sysconfig
name = f"python{sys.version_info.major}.{sys.version_info.minor}"
if sys.base_prefix == "/usr":
    try:
        import ensurepip
        assert ensurepip.version()
    except Exception:
        print(name + "-venv")
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        print(name + "-dev")
PYTHON
}

stamp=.venv/set-up-of

if command -v dpkg-query >/dev/null; then
    [ -n "${PYTHON:-}" ] || find_python >/dev/null || want python3
    wanted=("${build_packages[@]}" "${test_packages[@]}")
    if ! grep -qs pyfuse3=yes $stamp && python=$(find_python); then
        read -rd '' -a of_python < <(python_packages "$python") || true
        wanted+=("${of_python[@]}")
    fi
    want "${wanted[@]}"
    [ "${1:-}" != kill ] || want_postgresql "${kill_packages[@]}"
else
    say "this is not a Debian system, so its packages are yours to install; needed are a C compiler, pkg-config," \
        "libfuse 3 with headers and fusermount3, and for the tests curl, fio, mkfs.ext4, mkfs.xfs, losetup, getfattr," \
        "nbdkit, nbdfuse, qemu-img, qemu-storage-daemon, sqlite3, strace, systemd-analyze and mandoc, for make kill" \
        "PostgreSQL"
fi

if is_root; then
    for module in fuse loop; do
        node=/dev/${module/loop/loop-control}
        [ -e "$node" ] || modprobe "$module" 2>/dev/null || say "$node is not there and modprobe $module failed"
    done
fi

# Without them pyfuse3 cannot be built; all but the mount still runs.
with_pyfuse3=yes
command -v gcc >/dev/null && pkg-config --exists fuse3 2>/dev/null || with_pyfuse3=no

key="pyfuse3=$with_pyfuse3 $(cat pyproject.toml scripts/setup.sh <(echo "$PWD ${PYTHON:-}") | sha256sum | cut -c1-64)"
if [ "$(cat $stamp 2>/dev/null)" = "$key" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

python=$(find_python) ||
    die "no Python 3.11 or newer at ${PYTHON:-hand}; install one, or name it: make setup PYTHON=/path/to/python3"
rm -f $stamp
# One that works is kept, unless it was made elsewhere or another interpreter is asked for.
if [ -n "${PYTHON:-}" ] || ! grep -qsF "$PWD/.venv" .venv/bin/pip || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "building ./.venv with $("$python" --version) ($python); that takes a minute or two"
    "$python" -m venv --clear .venv || die "could not make ./.venv with $python; see the message above"
fi
say "installing lcfs in ./.venv"
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
if [ $with_pyfuse3 = yes ]; then
    "${pip[@]}" --editable '.[tui,dev]' || die "pip could not install lcfs; see its message above"
else
    say "pyfuse3 cannot be built here, so nothing can be mounted; the tests that mount nothing still run"
    .venv/bin/python - >.venv/requirements.txt <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
for requirement in project["dependencies"] + extras["tui"] + extras["dev"]:
    if not requirement.startswith("pyfuse3"):
        print(requirement)
PYTHON
    "${pip[@]}" --requirement .venv/requirements.txt || die "pip could not install what lcfs needs; see above"
    "${pip[@]}" --no-deps --editable . || die "pip could not install lcfs; see its message above"
fi
echo "$key" >$stamp
say "done"
