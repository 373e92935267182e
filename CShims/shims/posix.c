#define _GNU_SOURCE
#include "shim_posix.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
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
