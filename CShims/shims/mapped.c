#define _GNU_SOURCE
#include "shim_mapped.h"
#include "shim_lz4.h"

#include <libdeflate.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

// Where a SIGBUS of this thread goes on; NULL outside of the functions below.
static _Thread_local sigjmp_buf *volatile way_out;
static _Thread_local int is_prepared;
static struct sigaction previous;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    sigjmp_buf *target = way_out;
    if (target != NULL) {
        way_out = NULL;
        siglongjmp(*target, 1);
    }
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else {
        // The instruction comes again, and ends the process as it would have without us.
        signal(SIGBUS, SIG_DFL);
    }
}

static void install(void) {
    // Without the signal's own mask: siglongjmp leaves the handler and restores no mask, which would cost a system call
    // for every guard.
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

static void prepare_thread(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t set;

    pthread_once(&once, install);
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    is_prepared = 1;
}

// The fences keep the compiler from moving reads of the mapping out of the guard.
static inline void arm(sigjmp_buf *here) {
    way_out = here;
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void disarm(void) {
    atomic_signal_fence(memory_order_seq_cst);
    way_out = NULL;
}

#define PREPARE()                                                                                                      \
    do {                                                                                                               \
        if (__builtin_expect(!is_prepared, 0))                                                                         \
            prepare_thread();                                                                                          \
    } while (0)

int crfs_mapped_copy(void *out, const void *in, size_t size) {
    sigjmp_buf here;
    PREPARE();
    if (sigsetjmp(here, 0))
        return 0;
    arm(&here);
    memcpy(out, in, size);
    disarm();
    return 1;
}

int crfs_mapped_touch(const void *in, size_t size) {
    sigjmp_buf here;
    const volatile uint8_t *bytes = in;
    PREPARE();
    if (size == 0)
        return 1;
    if (sigsetjmp(here, 0))
        return 0;
    arm(&here);
    for (size_t position = 0; position < size; position += 4096)
        (void)bytes[position];
    (void)bytes[size - 1];
    disarm();
    return 1;
}

int crfs_mapped_checksum(const void *in, size_t size, uint64_t *checksum) {
    sigjmp_buf here;
    uint32_t crc, adler;
    PREPARE();
    if (sigsetjmp(here, 0))
        return 0;
    arm(&here);
    crc = libdeflate_crc32(0, in, size);
    adler = libdeflate_adler32(1, in, size);
    disarm();
    *checksum = (uint64_t)adler << 32 | crc;
    return 1;
}

uint32_t crfs_crc32(const void *in, size_t size) { return libdeflate_crc32(0, in, size); }

int crfs_mapped_lz4_decompress(const void *in, size_t in_size, void *out, size_t out_size) {
    sigjmp_buf here;
    int result;
    PREPARE();
    if (sigsetjmp(here, 0))
        return 0;
    arm(&here);
    result = crfs_lz4_decompress(in, in_size, out, out_size);
    disarm();
    return result;
}
