#define _GNU_SOURCE
#include "shim_loading.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_LIBRARIES = 64, THREADS = 6, STACK = 64 << 10 };

// The libraries that were met so far; those before `next` are taken.
struct work {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const char *directory;
    char names[MOST_LIBRARIES][64];
    int count, next, busy;
};

// Where libc is: the directory of the distribution's libraries.
static int find_directory(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (slash == NULL || strcmp(slash, "/libc.so.6") != 0) return 0;
    snprintf(context, PATH_MAX, "%.*s", (int)(slash - info->dlpi_name), info->dlpi_name);
    return 1;
}

static int open_library(const char *directory, const char *name, struct stat *status) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path) return -1;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && (fstat(file, status) != 0 || !S_ISREG(status->st_mode))) {
        close(file);
        return -1;
    }
    return file;
}

static void add(struct work *work, const char *name) {
    if (strlen(name) >= sizeof work->names[0]) return;
    pthread_mutex_lock(&work->lock);
    int known = work->count == MOST_LIBRARIES;
    for (int i = 0; i < work->count && !known; i++) known = strcmp(work->names[i], name) == 0;
    if (!known) {
        strcpy(work->names[work->count++], name);
        pthread_cond_signal(&work->changed);
    }
    pthread_mutex_unlock(&work->lock);
}

// Adds what an ELF file of this machine's word size needs (elf(5)). `size` bytes at `file`; nothing in it is trusted.
static void add_needed(struct work *work, const char *file, size_t size) {
    const ElfW(Ehdr) *header = (const void *)file;
    if (size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_phentsize != sizeof(ElfW(Phdr)) || header->e_phoff % sizeof(void *) != 0 || header->e_phoff > size ||
        header->e_phnum > (size - header->e_phoff) / sizeof(ElfW(Phdr)))
        return;
    const ElfW(Phdr) *segments = (const void *)(file + header->e_phoff);
    const ElfW(Dyn) *entries = NULL;
    size_t entry_count = 0;
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_DYNAMIC && segments[i].p_offset % sizeof(void *) == 0 &&
            segments[i].p_offset <= size && segments[i].p_filesz <= size - segments[i].p_offset) {
            entries = (const void *)(file + segments[i].p_offset);
            entry_count = segments[i].p_filesz / sizeof *entries;
        }
    // The string table is named by its address in memory.
    size_t strings = size;
    for (size_t i = 0; i < entry_count && entries[i].d_tag != DT_NULL; i++)
        if (entries[i].d_tag == DT_STRTAB)
            for (int j = 0; j < header->e_phnum; j++)
                if (segments[j].p_type == PT_LOAD && entries[i].d_un.d_ptr >= segments[j].p_vaddr &&
                    entries[i].d_un.d_ptr - segments[j].p_vaddr < segments[j].p_filesz)
                    strings = entries[i].d_un.d_ptr - segments[j].p_vaddr + segments[j].p_offset;
    for (size_t i = 0; i < entry_count && entries[i].d_tag != DT_NULL; i++) {
        if (entries[i].d_tag != DT_NEEDED || strings >= size || entries[i].d_un.d_val >= size - strings) continue;
        const char *name = file + strings + entries[i].d_un.d_val;
        if (memchr(name, 0, size - (size_t)(name - file)) != NULL) add(work, name);
    }
}

static void read_ahead(struct work *work, const char *name) {
    struct stat status;
    int file = open_library(work->directory, name, &status);
    if (file < 0) return;
    size_t size = (size_t)status.st_size;
    readahead(file, 0, size);
    void *map = size > 0 ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (map == MAP_FAILED) return;
    add_needed(work, map, size);
    munmap(map, size);
}

static void *run(void *context) {
    struct work *work = context;
    pthread_mutex_lock(&work->lock);
    for (;;) {
        if (work->next < work->count) {
            const char *name = work->names[work->next++];
            work->busy++;
            pthread_mutex_unlock(&work->lock);
            read_ahead(work, name);
            pthread_mutex_lock(&work->lock);
            work->busy--;
        } else if (work->busy > 0) {
            pthread_cond_wait(&work->changed, &work->lock);
        } else {
            break;
        }
    }
    pthread_cond_broadcast(&work->changed);
    pthread_mutex_unlock(&work->lock);
    return NULL;
}

static int is_cached(const char *directory, const char *name) {
    struct stat status;
    int file = open_library(directory, name, &status);
    if (file < 0) return 1;
    unsigned char resident = 1;
    void *map = mmap(NULL, 1, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (map == MAP_FAILED) return 1;
    if (mincore(map, 1, &resident) != 0) resident = 1;
    munmap(map, 1);
    return resident & 1;
}

void crfs_read_ahead_library(const char *name) {
    char directory[PATH_MAX] = "";
    dl_iterate_phdr(find_directory, directory);
    if (directory[0] == 0 || is_cached(directory, name)) return;
    struct work *work = calloc(1, sizeof *work);
    if (work == NULL) return;
    pthread_mutex_init(&work->lock, NULL);
    pthread_cond_init(&work->changed, NULL);
    work->directory = directory;
    add(work, name);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_t threads[THREADS];
    int started = 0;
    while (started < THREADS && pthread_create(&threads[started], &attributes, run, work) == 0) started++;
    pthread_attr_destroy(&attributes);
    run(work);
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    pthread_cond_destroy(&work->changed);
    pthread_mutex_destroy(&work->lock);
    free(work);
}
