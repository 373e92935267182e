#!/usr/bin/env python3
"""Reads a file by plain read(2) calls, as a program would that knows nothing of this project.

usage: reader.py PATH [READY_FILE]

Prints one line: `<size> <sha256>`, or `errno <NAME>` and exits with 1. SIGUSR1 has a handler without SA_RESTART, so an interrupted
call is seen as `errno EINTR`. READY_FILE is made just before the first read, after the open.
"""
import ctypes
import errno
import hashlib
import os
import signal
import sys


def fail(number):
    print("errno", errno.errorcode.get(number, number), flush=True)
    sys.exit(1)


signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
libc = ctypes.CDLL(None, use_errno=True)
libc.read.restype = ctypes.c_ssize_t
libc.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]

try:
    descriptor = os.open(sys.argv[1], os.O_RDONLY)
except OSError as error:
    fail(error.errno)
if len(sys.argv) > 2:
    open(sys.argv[2], "x").close()
digest, size, buffer = hashlib.sha256(), 0, ctypes.create_string_buffer(1 << 20)
while True:
    count = libc.read(descriptor, buffer, len(buffer))
    if count < 0:
        fail(ctypes.get_errno())
    if count == 0:
        break
    digest.update(buffer.raw[:count])
    size += count
print(size, digest.hexdigest(), flush=True)
