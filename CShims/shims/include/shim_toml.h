// TOML 1.0 by toml++, handed over node by node.
#ifndef CRFS_SHIM_TOML_H
#define CRFS_SHIM_TOML_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What a node is. Tables and arrays are followed by their members and a `crfs_toml_end`.
typedef enum {
    crfs_toml_table,
    crfs_toml_array,
    crfs_toml_end,
    crfs_toml_string,
    crfs_toml_integer,
    crfs_toml_float,
    crfs_toml_boolean,
    crfs_toml_date, // `text` is how TOML writes it
} crfs_toml_kind;

// One node. `key` has `key_size` bytes, none inside arrays and for the document itself; `text` has `text_size` bytes, for
// strings and dates. Both are UTF-8, may hold NUL, and are valid only during the call.
typedef struct {
    crfs_toml_kind kind;
    const char *key;
    size_t key_size;
    const char *text;
    size_t text_size;
    int64_t integer; // for booleans 0 or 1
    double number;
    uint32_t line; // where the key stands, from 1
} crfs_toml_node;

typedef void (*crfs_toml_callback)(void *context, const crfs_toml_node *node);

// Why a document is none: a terminated text, and the line, from 1.
typedef struct {
    char reason[256];
    uint32_t line;
} crfs_toml_failure;

// Parses `size` bytes at `text` and calls `callback` for each node, a table's members in the order in which they stand in the
// document, the document itself as the first table. Returns 1, or 0 with `failure` filled and no call made. Nesting is bounded
// by toml++ (256). Any number of threads at once.
int crfs_toml_parse(
    const char *text, size_t size, crfs_toml_callback callback, void *context, crfs_toml_failure *failure);

#ifdef __cplusplus
}
#endif

#endif
