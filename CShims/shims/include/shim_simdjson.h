// A walk over the entries of a TOC's JSON (spec section 3) with simdjson's on-demand parser.
#ifndef CRFS_SHIM_SIMDJSON_H
#define CRFS_SHIM_SIMDJSON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// How many bytes must be readable (not initialised) behind the JSON.
#define CRFS_TOC_PADDING 64

// A string of the TOC without its escapes: not terminated, UTF-8, may hold NUL. `bytes` is NULL where the field is
// absent or null. Valid until crfs_toc_walk returns.
struct crfs_toc_text {
    const char *bytes;
    size_t count;
};

struct crfs_toc_xattr {
    struct crfs_toc_text name;
    // Base64.
    struct crfs_toc_text value;
};

// The number fields of an entry that were given: bits of `present`.
enum crfs_toc_present {
    CRFS_TOC_HAS_SIZE = 1 << 0,
    CRFS_TOC_HAS_MODE = 1 << 1,
    CRFS_TOC_HAS_UID = 1 << 2,
    CRFS_TOC_HAS_GID = 1 << 3,
    CRFS_TOC_HAS_OFFSET = 1 << 4,
    CRFS_TOC_HAS_DEV_MAJOR = 1 << 5,
    CRFS_TOC_HAS_DEV_MINOR = 1 << 6,
    CRFS_TOC_HAS_CHUNK_OFFSET = 1 << 7,
    CRFS_TOC_HAS_CHUNK_SIZE = 1 << 8,
    CRFS_TOC_HAS_INNER_OFFSET = 1 << 9,
    CRFS_TOC_HAS_END_OFFSET = 1 << 10,
};

// One entry as it stands in the TOC. A number that was not given is 0. Where a field is given twice, the last counts.
struct crfs_toc_entry {
    struct crfs_toc_text name;
    struct crfs_toc_text type;
    struct crfs_toc_text modtime;
    struct crfs_toc_text link_name;
    struct crfs_toc_text digest;
    struct crfs_toc_text chunk_digest;
    struct crfs_toc_text chunk_type;
    uint64_t size;
    uint64_t mode;
    uint64_t uid;
    uint64_t gid;
    uint64_t offset;
    uint64_t end_offset;
    uint64_t dev_major;
    uint64_t dev_minor;
    uint64_t chunk_offset;
    uint64_t chunk_size;
    uint64_t inner_offset;
    uint32_t present;
    // In the order of the TOC; NULL when there are none.
    const struct crfs_toc_xattr *xattrs;
    size_t xattr_count;
};

enum crfs_toc_status {
    CRFS_TOC_OK = 0,
    // Not JSON, or not the shape of a TOC: `failure` says where.
    CRFS_TOC_BAD = 1,
    CRFS_TOC_NO_MEMORY = 2,
    // The callback asked to stop.
    CRFS_TOC_STOPPED = 3,
};

// Where and why a walk ended.
struct crfs_toc_failure {
    // The number of the entry, from 0; SIZE_MAX outside of the entries.
    size_t entry;
    // The entry's name if it was seen before; valid while the JSON is.
    struct crfs_toc_text name;
    // A field's name, or NULL. Static.
    const char *field;
    // What is wrong, in words. Static.
    const char *reason;
};

// Called once for each entry, in order; anything but 0 stops the walk.
typedef int (*crfs_toc_callback)(void *context, const struct crfs_toc_entry *entry);

// Walks the TOC `{"version":1,"entries":[…]}` in the `count` bytes at `json`. Unknown fields are skipped, fields come
// in any order, null counts as absent. `capacity` is how many bytes from `json` on may be read; it must be at least
// `count + CRFS_TOC_PADDING`. `*version` is the version that the TOC gives, 0 without one. On CRFS_TOC_BAD `*failure`
// is filled. Allocates about 6 times `count` of address space and touches of it what the JSON needs. No exception
// leaves it; safe on several threads at once.
enum crfs_toc_status crfs_toc_walk(const char *json, size_t count, size_t capacity, crfs_toc_callback callback,
                                   void *context, uint64_t *version, struct crfs_toc_failure *failure);

// A walk that only reads: simdjson hands out every string and every whole number of every entry, and nothing is done
// with them. For benchmarks, as the figure to compare with. Returns how many fields there are, or 0 when it is no TOC.
size_t crfs_toc_bare_walk(const char *json, size_t count, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
