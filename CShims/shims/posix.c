#define _GNU_SOURCE
#include "shim_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int crfs_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

int crfs_fcntl_int(int descriptor, int command, int argument) { return fcntl(descriptor, command, argument); }

uint64_t crfs_makedev(uint32_t major_number, uint32_t minor_number) { return makedev(major_number, minor_number); }

uint32_t crfs_major(uint64_t device) { return major(device); }

uint32_t crfs_minor(uint64_t device) { return minor(device); }

pid_t crfs_fork(void) { return fork(); }

void crfs_name_thread(const char *name) {
    char cut[16] = {0};
    strncpy(cut, name, sizeof cut - 1);
    pthread_setname_np(pthread_self(), cut);
}

void crfs_configure_malloc(void) {
    mallopt(M_ARENA_MAX, 2);
    // A fixed threshold: glibc raises it otherwise each time a large block is freed, and chunks stay in the heap. Below it
    // blocks come from the heap, whose pages need not be cleared by the kernel each time: most members and requests.
    mallopt(M_MMAP_THRESHOLD, 4 * 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 8 * 1024 * 1024);
}

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
