// Shared libraries that are loaded while the process runs.
#ifndef CRFS_SHIM_LOADING_H
#define CRFS_SHIM_LOADING_H

// Reads a shared library of the directory that libc came from, and all those it needs that are there, into the page cache,
// several at once; returns when all are on their way. dlopen(3) reads one after the other and waits for each: from a disk
// that costs 1 to 2 ms for each. Does nothing when the library is in the page cache, or where it is not found.
void crfs_read_ahead_library(const char *name);

#endif
