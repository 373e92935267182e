/* Reads a mount for the comparison, with as little of its own cost as possible. Prints numbers, see each command.
 *
 * probe serve DIR      waits until DIR lists a name; prints the CLOCK_MONOTONIC time of that, in ns
 * probe first          for each path on standard input, after a pause: open, read 4096 bytes, close; prints ns and bytes
 *                      of each
 * probe files DIR      opens, reads and closes the files named on standard input, paths below DIR; prints ns, files, bytes
 * probe read DIR [N]   reads every regular file, in the order of the directories, with N processes that share the files
 *                      in turns; prints ns, files, bytes
 * probe stat DIR       lstat of every entry; prints ns, entries
 *
 * A file that cannot be read ends the program with 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct totals {
    long long entries, files, bytes;
};

static char buffer[256 * 1024];

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what, const char *path) {
    fprintf(stderr, "probe: %s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static void serve(const char *path) {
    for (;;) {
        DIR *directory = opendir(path);
        struct dirent *entry;
        while (directory && (entry = readdir(directory)))
            if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
                printf("%lld\n", now());
                return;
            }
        if (directory) closedir(directory);
        usleep(500);
    }
}

static void first(void) {
    char path[PATH_MAX];
    while (fgets(path, sizeof path, stdin)) {
        path[strcspn(path, "\n")] = 0;
        usleep(200000);  // What came with the file before is dealt with.
        long long before = now();
        int file = open(path, O_RDONLY);
        if (file < 0) fail("open", path);
        ssize_t size = read(file, buffer, 4096);
        if (size < 0) fail("read", path);
        close(file);
        printf("%lld %zd\n", now() - before, size);
        fflush(stdout);
    }
}

static void read_file(int parent, const char *name, const char *path, struct totals *totals) {
    int file = openat(parent, name, O_RDONLY | O_NOFOLLOW);
    if (file < 0) fail("open", path);
    ssize_t size;
    while ((size = read(file, buffer, sizeof buffer)) > 0) totals->bytes += size;
    if (size < 0) fail("read", path);
    close(file);
}

/* The names are read before the clock starts. */
static void read_named(const char *path) {
    int root = open(path, O_RDONLY | O_DIRECTORY);
    if (root < 0) fail("open", path);
    char *text = NULL;
    size_t room = 0;
    ssize_t length = getdelim(&text, &room, 0, stdin);
    struct totals totals = {0};
    long long before = now();
    for (char *name = text, *end; length > 0 && (end = strchr(name, '\n')); name = end + 1) {
        *end = 0;
        read_file(root, name, name, &totals);
        totals.files++;
    }
    printf("%lld %lld %lld\n", now() - before, totals.files, totals.bytes);
}

/* Walks below `descriptor`; reads each file whose number modulo `readers` is `reader`, or stats all without readers. */
static void walk(int descriptor, const char *path, int reader, int readers, struct totals *totals) {
    DIR *directory = fdopendir(descriptor);
    if (!directory) fail("opendir", path);
    struct dirent *entry;
    while (errno = 0, (entry = readdir(directory))) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
        char below[PATH_MAX];
        if (snprintf(below, sizeof below, "%s/%s", path, name) >= (int)sizeof below) continue;
        unsigned char type = entry->d_type;
        totals->entries++;
        if (readers == 0 || type == DT_UNKNOWN) {
            struct stat status;
            if (fstatat(dirfd(directory), name, &status, AT_SYMLINK_NOFOLLOW)) fail("stat", below);
            type = IFTODT(status.st_mode);
        }
        if (type == DT_DIR) {
            int child = openat(dirfd(directory), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
            if (child < 0) fail("open", below);
            walk(child, below, reader, readers, totals);
        } else if (type == DT_REG && readers > 0 && totals->files++ % readers == reader) {
            read_file(dirfd(directory), name, below, totals);
        }
    }
    if (errno) fail("readdir", path);
    closedir(directory);
}

static void walk_root(const char *path, int reader, int readers, struct totals *totals) {
    int root = open(path, O_RDONLY | O_DIRECTORY);
    if (root < 0) fail("open", path);
    walk(root, path, reader, readers, totals);
}

static int read_all(const char *path, int readers) {
    struct totals *totals = mmap(NULL, readers * sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (totals == MAP_FAILED) fail("mmap", path);
    long long before = now(), bytes = 0;
    for (int reader = 0; reader < readers; reader++) {
        if (readers > 1 && fork()) continue;
        walk_root(path, reader, readers, &totals[reader]);
        if (readers > 1) _exit(0);
    }
    int status, failed = 0;
    while (wait(&status) > 0) failed |= status;
    for (int reader = 0; reader < readers; reader++) bytes += totals[reader].bytes;
    printf("%lld %lld %lld\n", now() - before, totals[0].files, bytes);
    return failed ? 1 : 0;
}

int main(int count, char **arguments) {
    const char *command = count > 1 ? arguments[1] : "";
    if (!strcmp(command, "serve") && count == 3) {
        serve(arguments[2]);
    } else if (!strcmp(command, "first") && count == 2) {
        first();
    } else if (!strcmp(command, "files") && count == 3) {
        read_named(arguments[2]);
    } else if (!strcmp(command, "read") && (count == 3 || count == 4)) {
        int readers = count == 4 ? atoi(arguments[3]) : 1;
        return read_all(arguments[2], readers > 0 ? readers : 1);
    } else if (!strcmp(command, "stat") && count == 3) {
        struct totals totals = {0};
        long long before = now();
        walk_root(arguments[2], 0, 0, &totals);
        printf("%lld %lld\n", now() - before, totals.entries);
    } else {
        fprintf(stderr, "usage: probe serve DIR | first | files DIR | read DIR [READERS] | stat DIR\n");
        return 2;
    }
    return 0;
}
