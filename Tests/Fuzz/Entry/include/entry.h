// Entry points of the fuzz targets.
#ifndef CRFS_FUZZ_ENTRY_H
#define CRFS_FUZZ_ENTRY_H

#endif
