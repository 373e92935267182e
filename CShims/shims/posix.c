#define _GNU_SOURCE
#include "shim_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

int crfs_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

int crfs_fcntl_int(int descriptor, int command, int argument) { return fcntl(descriptor, command, argument); }

uint64_t crfs_makedev(uint32_t major_number, uint32_t minor_number) { return makedev(major_number, minor_number); }

uint32_t crfs_major(uint64_t device) { return major(device); }

uint32_t crfs_minor(uint64_t device) { return minor(device); }

pid_t crfs_fork(void) { return fork(); }

void crfs_signal_at_parents_end(int number) { prctl(PR_SET_PDEATHSIG, (unsigned long)number, 0, 0, 0); }

void crfs_name_thread(const char *name) {
    char cut[16] = {0};
    strncpy(cut, name, sizeof cut - 1);
    pthread_setname_np(pthread_self(), cut);
}

void crfs_configure_malloc(void) {
    mallopt(M_ARENA_MAX, 2);
    // Fixed thresholds: glibc raises the first otherwise each time a large block is freed. Below it blocks come from the heap,
    // whose pages need not be cleared by the kernel each time: requests, members, and chunks of 4 MiB. The second is more
    // than what is on its way rises and falls by, so that pages stay while bytes come; docs/decisions/0022.
    mallopt(M_MMAP_THRESHOLD, 8 * 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 24 * 1024 * 1024);
}

void crfs_release_free_memory(void) { malloc_trim(0); }

int crfs_spawn_piped(const char *program, const char *argument, int *input, int *output, int *pid) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0) return errno;
    if (pipe2(out, O_CLOEXEC) != 0) {
        int error = errno;
        close(in[0]);
        close(in[1]);
        return error;
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error = posix_spawn_file_actions_init(&actions);
    if (error == 0) {
        error = posix_spawnattr_init(&attributes);
        if (error != 0) posix_spawn_file_actions_destroy(&actions);
    }
    if (error == 0) {
        sigset_t none, all;
        sigemptyset(&none);
        sigfillset(&all);
        char *arguments[] = {(char *)program, (char *)argument, NULL};
        if ((error = posix_spawn_file_actions_adddup2(&actions, in[0], 0)) == 0 &&
            (error = posix_spawn_file_actions_adddup2(&actions, out[1], 1)) == 0 &&
            (error = posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)) == 0 &&
            (error = posix_spawn_file_actions_addclosefrom_np(&actions, 3)) == 0 &&
            (error = posix_spawn_file_actions_addchdir_np(&actions, "/")) == 0 &&
            (error = posix_spawnattr_setsigmask(&attributes, &none)) == 0 &&
            (error = posix_spawnattr_setsigdefault(&attributes, &all)) == 0 &&
            (error = posix_spawnattr_setpgroup(&attributes, 0)) == 0 &&
            (error = posix_spawnattr_setflags(
                 &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP)) == 0)
            error = posix_spawnp(pid, program, &actions, &attributes, arguments, environ);
        posix_spawnattr_destroy(&attributes);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(in[0]);
    close(out[1]);
    if (error != 0) {
        close(in[1]);
        close(out[0]);
        return error;
    }
    *input = in[1];
    *output = out[0];
    return 0;
}

// ---- Unix sockets -----------------------------------------------------------------------------------------------

static int unix_address(const char *path, struct sockaddr_un *address) {
    size_t size = strlen(path);

    if (size >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, size);
    return 0;
}

static int close_after_failure(int descriptor) {
    int code = errno;
    close(descriptor);
    errno = code;
    return -1;
}

int crfs_unix_listen(const char *path, int backlog) {
    struct sockaddr_un address;
    int descriptor;

    if (unix_address(path, &address) != 0)
        return -1;
    descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        return -1;
    // Linux gives the name that bind(2) makes the mode of the socket itself, less the umask.
    if (fchmod(descriptor, 0600) != 0 || bind(descriptor, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(descriptor, backlog) != 0)
        return close_after_failure(descriptor);
    return descriptor;
}

int crfs_unix_connect(const char *path) {
    struct sockaddr_un address;
    int descriptor;

    if (unix_address(path, &address) != 0)
        return -1;
    descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        return close_after_failure(descriptor);
    return descriptor;
}

int crfs_unix_accept(int listener) { return accept4(listener, NULL, NULL, SOCK_CLOEXEC); }

int crfs_unix_peer(int socket, uid_t *user, pid_t *process) {
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return -1;
    *user = peer.uid;
    *process = peer.pid;
    return 0;
}

ssize_t crfs_send(int socket, const void *bytes, size_t count, int descriptor) {
    struct iovec piece = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};

    if (descriptor >= 0) {
        struct cmsghdr *header;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

enum { MOST_DESCRIPTORS = 8 };

ssize_t crfs_receive(int socket, void *bytes, size_t count, int flags, int *descriptors, int room, int *received) {
    struct iovec piece = {.iov_base = bytes, .iov_len = count};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header;
    ssize_t result;

    *received = 0;
    // What does not fit into `control` the kernel does not hand over.
    result = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    if (result < 0)
        return result;
    for (header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        size_t index, total;
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        total = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (index = 0; index < total; index++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + index * sizeof(int), sizeof descriptor);
            if (*received < room)
                descriptors[(*received)++] = descriptor;
            else
                close(descriptor);
        }
    }
    return result;
}
