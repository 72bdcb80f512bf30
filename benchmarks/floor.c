/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The floor: a libfuse low-level server that does nothing. One file, "disk"; a read is answered from a buffer of
 * zeros, a write is dropped, a barrier is answered. What it costs is what the kernel and libfuse cost, so no FUSE
 * server with one reader can be quicker.
 *
 * Usage: floor MOUNTPOINT SIZE_IN_BYTES      stays in the foreground, ends on SIGTERM or when unmounted
 */
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DISK = 2, MAX_REQUEST = 1 << 20, MAX_BACKGROUND = 4096 };

static off_t disk_size;
static char zeros[MAX_REQUEST];

static void attributes(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    st->st_nlink = 1;
    st->st_mode = ino == DISK ? S_IFREG | 0600 : S_IFDIR | 0755;
    st->st_size = ino == DISK ? disk_size : 0;
    st->st_blocks = st->st_size / 512;
}

/* As many requests at a time as lcfs asks for, so that the queue depth is the load's and not the mount's. */
static void on_init(void *data, struct fuse_conn_info *conn)
{
    (void)data;
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = MAX_BACKGROUND;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = { .ino = DISK, .attr_timeout = 1.0, .entry_timeout = 1.0 };

    if (parent != FUSE_ROOT_ID || strcmp(name, "disk") != 0) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    attributes(DISK, &entry.attr);
    fuse_reply_entry(req, &entry);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;

    (void)fi;
    attributes(ino, &st);
    fuse_reply_attr(req, &st, 1.0);
}

/* losetup and fio may truncate to the size the file has. */
static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    (void)attr, (void)to_set;
    on_getattr(req, ino, fi);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (ino != DISK) {
        fuse_reply_err(req, EISDIR);
        return;
    }
    fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    off_t left = offset < disk_size ? disk_size - offset : 0;

    (void)ino, (void)fi;
    if ((off_t)size > left)
        size = left;
    fuse_reply_buf(req, zeros, size < sizeof zeros ? size : sizeof zeros);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    (void)ino, (void)data, (void)offset, (void)fi;
    fuse_reply_write(req, size);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)ino, (void)datasync, (void)fi;
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
};

int main(int argc, char **argv)
{
    char *words[] = { argv[0], "-o", "fsname=floor" };
    struct fuse_args args = FUSE_ARGS_INIT(3, words);
    struct fuse_session *session;
    int status;

    if (argc != 3 || (disk_size = atoll(argv[2])) <= 0) {
        fprintf(stderr, "usage: %s MOUNTPOINT SIZE_IN_BYTES\n", argv[0]);
        return 2;
    }
    session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (session == NULL || fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, argv[1]) != 0)
        return 1;
    status = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    fuse_opt_free_args(&args);
    return status < 0;
}
