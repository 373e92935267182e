// One header and one source per C library; this one only gathers them.
#ifndef CSHIMS_H
#define CSHIMS_H

#include "shim_curl.h"
#include "shim_deflate.h"
#include "shim_fuse.h"
#include "shim_lz4.h"
#include "shim_mapped.h"
#include "shim_posix.h"
#include "shim_sha256.h"
#include "shim_simdjson.h"
#include "shim_toml.h"
#include "shim_zlib.h"
#include "shim_zstd.h"

#endif
