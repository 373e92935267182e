// What Swift cannot do with libfuse 3.14 by itself: see the INIT exchange, take printf-style log lines, lend names
// without a terminating 0 to it, and stop a thread that sleeps in read(2) of /dev/fuse.
#ifndef CRFS_SHIM_FUSE_H
#define CRFS_SHIM_FUSE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// Only named here: whoever calls these functions imports CFuse3 for them. Including libfuse's header would make the
// struct stat of every importer of CShims a declaration of CShims.
struct fuse_buf;
struct fuse_entry_param;
struct fuse_lowlevel_ops;
struct fuse_req;
struct fuse_session;
struct stat;

// Between one libfuse session and its owner: the session's userdata. Holds what the INIT request offered.
typedef struct crfs_fuse_link crfs_fuse_link;

// Called once, on the thread that wrote the INIT reply, after the kernel has taken it: the mount serves from now on.
// `offered` and `chosen` are the FUSE_* flags of both sides, flags2 in the upper half.
typedef void (*crfs_fuse_serving)(void *owner, uint64_t offered, uint64_t chosen, uint32_t max_pages);

// NULL when memory is out.
crfs_fuse_link *crfs_fuse_link_new(crfs_fuse_serving serving);
// Only after the session was destroyed.
void crfs_fuse_link_free(crfs_fuse_link *link);
// Before the session is mounted: asks for FUSE_PARALLEL_DIROPS, where the kernel offers it.
void crfs_fuse_link_want_parallel_lookups(crfs_fuse_link *link);
// Before the session is mounted: asks for FUSE_PASSTHROUGH, where the kernel offers it.
void crfs_fuse_link_want_passthrough(crfs_fuse_link *link);
// Before the session is mounted; the pointer is only handed back, never followed.
void crfs_fuse_link_set_owner(crfs_fuse_link *link, void *owner);
void *crfs_fuse_link_owner(const crfs_fuse_link *link);
// The owner of a request's session.
void *crfs_fuse_request_owner(struct fuse_req *request);

// fuse_session_new(3) with `argc` arguments (argv[0] is the program's name), which are copied. NULL when libfuse
// refuses; the reason went to the log.
struct fuse_session *crfs_fuse_session_new(int argc, const char *const *argv, const struct fuse_lowlevel_ops *ops,
                                           crfs_fuse_link *link);

// After fuse_session_mount: routes the session's own descriptor through the shim, which sets in the INIT reply what
// libfuse 3.14 does not know. 0 or a negative error number.
int crfs_fuse_session_attach(struct fuse_session *session);

// Sends a reply, as writev(2). What it points at can be a mapping of the chunk store, and a page of that can be lost by
// now (the file was cut, the disk fails): the kernel says EFAULT and takes nothing, and libfuse would leave it at that,
// with a reader who waits for ever. So the request is answered with EIO then.
ssize_t crfs_fuse_write_reply(int fd, const struct iovec *iov, int count);

// Whether FUSE_PASSTHROUGH is among the flags that `serving` was told as chosen.
int crfs_fuse_has_passthrough(uint64_t chosen);

// FUSE_DEV_IOC_BACKING_OPEN: lends an open file to the kernel, which keeps it until the number is closed and no open
// file uses it. The number, above 0, or a negative error number: EPERM without CAP_SYS_ADMIN, ELOOP where the file is on
// an overlayfs, ENOTTY or EOPNOTSUPP where the kernel does not know passthrough. Any thread.
int crfs_fuse_backing_open(struct fuse_session *session, int fd);
void crfs_fuse_backing_close(struct fuse_session *session, int id);

// Answers OPEN with FOPEN_PASSTHROUGH, which libfuse 3.14 cannot. 0, or a negative error number when the kernel did not
// take it.
int crfs_fuse_reply_passthrough(struct fuse_req *request, uint64_t handle, int id);

// One request: receive and process. 1: go on; 0: the mount is gone or the session was told to exit; negative: an error
// number of read(2). `buffer` starts zeroed and belongs to the calling thread, which frees its `mem` in the end.
int crfs_fuse_serve_one(struct fuse_session *session, struct fuse_buf *buffer);

// Makes SIGURG interrupt read(2) in the calling thread without any other effect; once per thread. The handler is the
// process's, and does nothing.
void crfs_fuse_allow_wakeup(void);

// A pointer of the calling thread; NULL at first.
void crfs_fuse_set_thread_context(void *context);
void *crfs_fuse_thread_context(void);

// Where libfuse's messages go, for the whole process: `level` as in enum fuse_log_level, `text` without its newline,
// cut to 1,023 bytes. The sink is called on whichever thread libfuse logs from.
typedef void (*crfs_fuse_log_sink)(int level, const char *text);
void crfs_fuse_set_log_sink(crfs_fuse_log_sink sink);

// The longest name that the kernel takes from a listing: FUSE_NAME_MAX.
enum { CRFS_FUSE_NAME_MAX = 1024 };

// Each stores one name for readdir or readdirplus at `buffer` and returns the bytes it takes: more than `room` means
// that nothing was stored. `name` has `name_size` (1 to CRFS_FUSE_NAME_MAX) bytes and no terminating 0; d_ino and
// d_type come from st_ino and st_mode.
size_t crfs_fuse_add_name(char *buffer, size_t room, const void *name, size_t name_size, const struct stat *status,
                          off_t next);
size_t crfs_fuse_add_name_plus(char *buffer, size_t room, const void *name, size_t name_size,
                               const struct fuse_entry_param *entry, off_t next);

// umount2(2), which does not follow a symlink in the last place: plain, or lazy (MNT_DETACH). -1 and errno on failure.
int crfs_fuse_umount(const char *path, int lazy);

#endif
