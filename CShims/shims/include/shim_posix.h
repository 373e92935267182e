// What Swift cannot call of libc and the kernel: variadic functions and function-like macros.
#ifndef CRFS_SHIM_POSIX_H
#define CRFS_SHIM_POSIX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// open(2) with its variadic mode.
int crfs_open(const char *path, int flags, mode_t mode);

// fcntl(2) with an int argument.
int crfs_fcntl_int(int descriptor, int command, int argument);

// makedev(3), major(3) and minor(3) are macros.
uint64_t crfs_makedev(uint32_t major, uint32_t minor);
uint32_t crfs_major(uint64_t device);
uint32_t crfs_minor(uint64_t device);

// fork(2), which Swift declares unavailable: only for a process that has one thread.
pid_t crfs_fork(void);

// pthread_setname_np(3) for the calling thread, cut to the 15 bytes that the kernel keeps.
void crfs_name_thread(const char *name);

// Bounds what malloc keeps to itself: few arenas, large blocks by mmap so that freeing them gives them back.
void crfs_configure_malloc(void);

// Starts `program`, found in PATH, with one argument, its standard input and output at pipes, whose other ends come back, and
// its standard error at /dev/null: in a process group of its own, in the directory `/`, with no signal blocked or ignored and
// no other descriptor. Returns 0 or an error number; ENOENT when there is no such program.
int crfs_spawn_piped(const char *program, const char *argument, int *input, int *output, int *pid);

#endif
