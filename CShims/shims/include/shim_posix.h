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

// prctl(2), PR_SET_PDEATHSIG: the signal that comes when the parent ends; 0: none.
void crfs_signal_at_parents_end(int number);

// pthread_setname_np(3) for the calling thread, cut to the 15 bytes that the kernel keeps.
void crfs_name_thread(const char *name);

// Bounds what malloc keeps to itself: few arenas, large blocks by mmap so that freeing them gives them back.
void crfs_configure_malloc(void);

// malloc_trim(3): gives the system back all that malloc keeps.
void crfs_release_free_memory(void);

// Unix stream sockets. A path may have at most 107 bytes (ENAMETOOLONG otherwise). Each returns a descriptor that is
// closed on exec, or -1 and errno. What the listening one puts into the file system has mode 0600 from the start.
int crfs_unix_listen(const char *path, int backlog);
int crfs_unix_connect(const char *path);

// accept4(2) with close-on-exec. -1 and errno on failure.
int crfs_unix_accept(int listener);

// Who is at the other end (SO_PEERCRED), as the kernel noted it when the connection was made. -1 and errno on failure.
int crfs_unix_peer(int socket, uid_t *user, pid_t *process);

// sendmsg(2) without SIGPIPE; `descriptor` goes along by SCM_RIGHTS unless it is negative. Returns as send(2) does.
ssize_t crfs_send(int socket, const void *bytes, size_t count, int descriptor);

// recvmsg(2) with `flags` and close-on-exec. Descriptors that came along are stored in `descriptors`, `*received` of
// them; those beyond `room` (at most 8) are closed. Returns as recv(2) does.
ssize_t crfs_receive(int socket, void *bytes, size_t count, int flags, int *descriptors, int room, int *received);

// Starts `program`, found in PATH, with one argument, its standard input and output at pipes, whose other ends come back, and
// its standard error at /dev/null: in a process group of its own, in the directory `/`, with no signal blocked or ignored and
// no other descriptor. Returns 0 or an error number; ENOENT when there is no such program.
int crfs_spawn_piped(const char *program, const char *argument, int *input, int *output, int *pid);

#endif
