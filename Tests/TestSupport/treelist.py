#!/usr/bin/env python3
"""Lists what lstat(2), readlink(2), listxattr(2) and the content say of a tree, one line for each name, sorted.

usage: treelist.py ROOT

Names of one inode share a number. Of files above 64 MiB the first and the last MiB are hashed. Link counts of directories are left out:
file systems differ in them. Python standard library only.
"""
import hashlib
import os
import stat
import sys


def content(path, size):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        if size > 64 << 20:
            digest.update(file.read(1 << 20))
            file.seek(size - (1 << 20))
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def row(path, name, groups):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    fields = [name, f"{status.st_mode:o}", status.st_uid, status.st_gid, status.st_mtime_ns]
    if kind != stat.S_IFDIR:
        fields += [status.st_nlink, groups.setdefault((status.st_dev, status.st_ino), len(groups)), status.st_size]
    if kind == stat.S_IFREG:
        fields.append(content(path, status.st_size))
    if kind == stat.S_IFLNK:
        fields.append(os.readlink(path))
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields.append(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    for key in sorted(os.listxattr(path, follow_symlinks=False)):
        fields.append(f"{key}={os.getxattr(path, key, follow_symlinks=False).hex()}")
    return "\t".join(str(field) for field in fields)


def main(root):
    names = []
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            names.append(os.path.relpath(os.path.join(directory, name), root))
    groups = {}
    for name in sorted(names):
        print(row(os.path.join(root, name), name, groups))


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]).decode("utf-8", "surrogateescape"))
