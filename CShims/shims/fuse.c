#define _GNU_SOURCE
#define FUSE_USE_VERSION 314

#include "include/shim_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

// The bytes on the wire are the kernel's, whatever headers this is compiled with.
_Static_assert(sizeof(struct fuse_in_header) == 40, "fuse_in_header is part of the kernel's interface");
_Static_assert(sizeof(struct fuse_out_header) == 16, "fuse_out_header is part of the kernel's interface");
_Static_assert(sizeof(struct fuse_init_in) == 64, "fuse_init_in is part of the kernel's interface");
_Static_assert(sizeof(struct fuse_init_out) == 64, "fuse_init_out is part of the kernel's interface");

enum init_state {
    INIT_AWAITED,
    // The request was read; its reply will go by.
    INIT_READ,
    // The kernel took the reply.
    INIT_DONE,
};

struct crfs_fuse_link {
    void *owner;
    crfs_fuse_serving serving;
    // The plain fields below are touched by one thread: nothing else is on its way before the INIT reply is written.
    atomic_int state;
    uint64_t unique;
    uint64_t offered;
    int wants_parallel_lookups;
    int wants_passthrough;
};

crfs_fuse_link *crfs_fuse_link_new(crfs_fuse_serving serving) {
    crfs_fuse_link *link = calloc(1, sizeof *link);
    if (link != NULL) {
        link->serving = serving;
        atomic_init(&link->state, INIT_AWAITED);
    }
    return link;
}

void crfs_fuse_link_free(crfs_fuse_link *link) { free(link); }

void crfs_fuse_link_want_parallel_lookups(crfs_fuse_link *link) { link->wants_parallel_lookups = 1; }

void crfs_fuse_link_want_passthrough(crfs_fuse_link *link) { link->wants_passthrough = 1; }

void crfs_fuse_link_set_owner(crfs_fuse_link *link, void *owner) { link->owner = owner; }

void *crfs_fuse_link_owner(const crfs_fuse_link *link) { return link->owner; }

void *crfs_fuse_request_owner(struct fuse_req *request) {
    return ((const crfs_fuse_link *)fuse_req_userdata(request))->owner;
}

struct fuse_session *crfs_fuse_session_new(int argc, const char *const *argv, const struct fuse_lowlevel_ops *ops,
                                           crfs_fuse_link *link) {
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_session *session = NULL;
    int added = 0;
    while (added < argc && fuse_opt_add_arg(&args, argv[added]) == 0)
        added++;
    if (added == argc)
        session = fuse_session_new(&args, ops, sizeof *ops, link);
    fuse_opt_free_args(&args);
    return session;
}

// ---- The INIT exchange ------------------------------------------------------------------------------------------

// Of Linux 6.9, which the headers may be older than: flag 37 of INIT, an answer to OPEN, two requests to /dev/fuse.
enum { PASSTHROUGH_IN_FLAGS2 = 1 << 5, OPEN_PASSTHROUGH = 1 << 7 };

struct backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};

struct open_reply {
    uint64_t handle;
    uint32_t flags;
    int32_t backing_id;
};
_Static_assert(sizeof(struct open_reply) == sizeof(struct fuse_open_out), "the kernel's answer to OPEN has 16 bytes");

#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

// The one place where the INIT reply is changed. `reply` is whole.
static void edit_init_reply(struct fuse_init_out *reply, const crfs_fuse_link *link) {
    uint64_t offered = link->offered;

    // libfuse 3.14 knows this flag and does not send it.
    if (link->wants_parallel_lookups)
        reply->flags |= (uint32_t)offered & FUSE_PARALLEL_DIROPS;
    if (link->wants_passthrough && (offered & FUSE_INIT_EXT) && (offered >> 32 & PASSTHROUGH_IN_FLAGS2)) {
        reply->flags |= FUSE_INIT_EXT;
        reply->flags2 |= PASSTHROUGH_IN_FLAGS2;
        // max_stack_depth. With 2 no overlayfs could be mounted over this one.
        reply->unused[0] = 1;
    }
}

static ssize_t write_init_reply(crfs_fuse_link *link, int fd, struct iovec *iov, int count) {
    struct fuse_init_out reply;
    struct iovec edited[2];
    ssize_t result;

    // An error, or the answer to a kernel of another major version, which asks once more: nothing to change.
    if (count != 2 || iov[1].iov_len != sizeof reply) {
        atomic_store(&link->state, INIT_AWAITED);
        return writev(fd, iov, count);
    }
    memcpy(&reply, iov[1].iov_base, sizeof reply);
    edit_init_reply(&reply, link);
    edited[0] = iov[0];
    edited[1] = (struct iovec){&reply, sizeof reply};
    result = writev(fd, edited, 2);
    if (result >= 0) {
        uint64_t chosen = reply.flags;
        if (reply.flags & FUSE_INIT_EXT)
            chosen |= (uint64_t)reply.flags2 << 32;
        atomic_store(&link->state, INIT_DONE);
        link->serving(link->owner, link->offered, chosen, reply.max_pages);
    }
    return result;
}

ssize_t crfs_fuse_write_reply(int fd, const struct iovec *iov, int count) {
    ssize_t result = writev(fd, iov, count);

    if (result < 0 && errno == EFAULT && count > 1 && iov[0].iov_len == sizeof(struct fuse_out_header)) {
        struct fuse_out_header header;
        memcpy(&header, iov[0].iov_base, sizeof header);
        header.len = sizeof header;
        header.error = -EIO;
        result = write(fd, &header, sizeof header);
    }
    return result;
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata) {
    crfs_fuse_link *link = userdata;

    if (atomic_load_explicit(&link->state, memory_order_acquire) == INIT_READ && count > 0 &&
        iov[0].iov_len >= sizeof(struct fuse_out_header)) {
        const struct fuse_out_header *header = iov[0].iov_base;
        if (header->unique == link->unique)
            return write_init_reply(link, fd, iov, count);
    }
    return crfs_fuse_write_reply(fd, iov, count);
}

static void note_init_request(crfs_fuse_link *link, const void *buffer, size_t size) {
    struct fuse_in_header header;
    struct fuse_init_in request = {0};
    size_t body;

    if (size < sizeof header)
        return;
    memcpy(&header, buffer, sizeof header);
    if (header.opcode != FUSE_INIT)
        return;
    // Old kernels send a shorter request; what is missing counts as 0.
    body = size - sizeof header;
    memcpy(&request, (const char *)buffer + sizeof header, body < sizeof request ? body : sizeof request);
    link->unique = header.unique;
    link->offered = request.flags;
    if (request.flags & FUSE_INIT_EXT)
        link->offered |= (uint64_t)request.flags2 << 32;
    atomic_store_explicit(&link->state, INIT_READ, memory_order_release);
}

static ssize_t io_read(int fd, void *buffer, size_t size, void *userdata) {
    crfs_fuse_link *link = userdata;
    ssize_t result = read(fd, buffer, size);

    if (result > 0 && atomic_load_explicit(&link->state, memory_order_relaxed) == INIT_AWAITED)
        note_init_request(link, buffer, (size_t)result);
    return result;
}

int crfs_fuse_session_attach(struct fuse_session *session) {
    // Without functions that splice, libfuse does not: no answer comes from a file (docs/decisions/0011).
    static const struct fuse_custom_io io = {
        .writev = io_writev,
        .read = io_read,
    };
    return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}

// ---- Files behind files ------------------------------------------------------------------------------------------

int crfs_fuse_has_passthrough(uint64_t chosen) { return (chosen >> 32 & PASSTHROUGH_IN_FLAGS2) != 0; }

int crfs_fuse_backing_open(struct fuse_session *session, int fd) {
    struct backing_map map = {.fd = fd};
    int id = ioctl(fuse_session_fd(session), BACKING_OPEN, &map);
    return id >= 0 ? id : -errno;
}

void crfs_fuse_backing_close(struct fuse_session *session, int id) {
    uint32_t number = (uint32_t)id;
    (void)ioctl(fuse_session_fd(session), BACKING_CLOSE, &number);
}

int crfs_fuse_reply_passthrough(struct fuse_req *request, uint64_t handle, int id) {
    struct open_reply reply = {.handle = handle, .flags = OPEN_PASSTHROUGH, .backing_id = id};
    return fuse_reply_buf(request, (const char *)&reply, sizeof reply);
}

// ---- The loop ---------------------------------------------------------------------------------------------------

int crfs_fuse_serve_one(struct fuse_session *session, struct fuse_buf *buffer) {
    int result;

    if (fuse_session_exited(session))
        return 0;
    result = fuse_session_receive_buf(session, buffer);
    if (result == -EINTR || result == -EAGAIN)
        return 1;
    if (result <= 0)
        return result;
    fuse_session_process_buf(session, buffer);
    return 1;
}

static void wake(int signal) { (void)signal; }

static void install_wakeup(void) {
    // Without SA_RESTART, so that read(2) ends with EINTR.
    struct sigaction action = {.sa_handler = wake};
    sigemptyset(&action.sa_mask);
    sigaction(SIGURG, &action, NULL);
}

void crfs_fuse_allow_wakeup(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t set;

    pthread_once(&once, install_wakeup);
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static _Thread_local void *thread_context;

void crfs_fuse_set_thread_context(void *context) { thread_context = context; }

void *crfs_fuse_thread_context(void) { return thread_context; }

// ---- Messages ---------------------------------------------------------------------------------------------------

static _Atomic(crfs_fuse_log_sink) log_sink;

static void log_message(enum fuse_log_level level, const char *format, va_list arguments) {
    char text[1024];
    crfs_fuse_log_sink sink = atomic_load(&log_sink);
    size_t size;

    if (sink == NULL || vsnprintf(text, sizeof text, format, arguments) < 0)
        return;
    size = strlen(text);
    while (size > 0 && text[size - 1] == '\n')
        text[--size] = 0;
    sink((int)level, text);
}

void crfs_fuse_set_log_sink(crfs_fuse_log_sink sink) {
    atomic_store(&log_sink, sink);
    fuse_set_log_func(log_message);
}

// ---- Listings ---------------------------------------------------------------------------------------------------

// libfuse wants the name with a terminating 0.
#define TERMINATED(name, size)                                                                                         \
    char terminated[CRFS_FUSE_NAME_MAX + 1];                                                                           \
    memcpy(terminated, name, size);                                                                                    \
    terminated[size] = 0

size_t crfs_fuse_add_name(char *buffer, size_t room, const void *name, size_t name_size, const struct stat *status,
                          off_t next) {
    TERMINATED(name, name_size);
    return fuse_add_direntry(NULL, buffer, room, terminated, status, next);
}

size_t crfs_fuse_add_name_plus(char *buffer, size_t room, const void *name, size_t name_size,
                               const struct fuse_entry_param *entry, off_t next) {
    TERMINATED(name, name_size);
    return fuse_add_direntry_plus(NULL, buffer, room, terminated, entry, next);
}

int crfs_fuse_umount(const char *path, int lazy) { return umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)); }
