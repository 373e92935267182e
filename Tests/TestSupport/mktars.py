#!/usr/bin/env python3
"""Makes tar archives of one tree with every writer and format at hand, and extracts each.

usage: mktars.py OUTDIR

OUTDIR/NAME.tar are the archives, OUTDIR/x/NAME what `tar -x` makes of them (bsdtar's of its own). Needs root (devices, owners), GNU tar and bsdtar.
Formats that cannot hold long names or large numbers get a part of the tree. Python standard library only.
"""
import os
import stat
import subprocess
import sys
import tarfile


def write(path, content, mode=0o644, owner=(0, 0), time=1_600_000_000_000_000_000):
    with open(path, "wb") as file:
        file.write(content)
    os.chown(path, *owner)
    os.chmod(path, mode)
    os.utime(path, ns=(time, time))


def sparse(path, size, pieces):
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
    os.utime(path, ns=(10**18, 10**18))


def small(root):
    """What every format can hold."""
    os.makedirs(root + "/dir/sub", 0o755)
    write(root + "/file", b"content\n", 0o640, (1000, 1001))
    write(root + "/empty", b"")
    write(root + "/dir/set-id", b"#!/bin/sh\n", 0o6755, (12, 34))
    write(root + "/dir/block", bytes(range(256)) * 2)
    write(root + "/dir/large", os.urandom(5 << 20) + b"tail", 0o400)
    write(root + "/old", b"old", time=0)
    os.link(root + "/file", root + "/dir/hard")
    os.link(root + "/file", root + "/dir/sub/hard2")
    os.symlink("../file", root + "/dir/soft")
    os.symlink("nowhere", root + "/dangling")
    os.link(root + "/dangling", root + "/hard-to-symlink", follow_symlinks=False)
    os.chmod(root + "/dir/sub", 0o1777)
    os.utime(root + "/dir/sub", ns=(10**18, 10**18))


def special(root):
    """What ustar can hold besides."""
    os.mkfifo(root + "/fifo", 0o620)
    os.link(root + "/fifo", root + "/hard-to-fifo")
    os.mknod(root + "/char", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root + "/block", 0o660 | stat.S_IFBLK, os.makedev(8, 17))
    deep = root + "/" + "/".join(["directory-%d-of-some-length" % n for n in range(6)])
    os.makedirs(deep)
    write(deep + "/file", b"deep")


def large(root):
    """What needs extended headers."""
    long = "n" * 200
    write(root + "/" + long, b"long name")
    os.symlink("t" * 180, root + "/long-target")
    os.link(root + "/" + long, root + "/hard-to-long")
    write(root + "/übersee-日本", "ü".encode())
    write(root + "/owner", b"o", 0o600, (3_000_000, 2_100_000_000))
    write(root + "/future", b"f", time=5_000_000_000 * 10**9)
    write(root + "/past", b"p", time=-12_345 * 10**9)
    deep = root + "/" + "/".join("%d-%s" % (n, "d" * 40) for n in range(8))
    os.makedirs(deep)
    write(deep + "/" + "f" * 120, b"very deep")


def extended(root):
    """What only PAX can hold."""
    write(root + "/fraction", b"1", time=1_600_000_000_123_456_789)
    write(root + "/xattr", b"x")
    os.setxattr(root + "/xattr", "user.one", b"value")
    os.setxattr(root + "/xattr", "user.binary", bytes(range(256)))
    os.setxattr(root + "/xattr", "trusted.two", b"2")


def equals(root):
    """An xattr whose name GNU tar and libarchive write differently, and GNU tar reads its own way only."""
    write(root + "/equals", b"=")
    os.setxattr(root + "/equals", "user.with=equals", b"=")


def holes(root):
    sparse(root + "/sparse", (9 << 20) + 123, [(0, b"start"), (5 << 20, b"m" * 70_000), ((9 << 20) + 100, b"end")])
    sparse(root + "/sparse-many", 4 << 20, [(n * 65536, b"%d" % n) for n in range(64)])
    sparse(root + "/sparse-hole-at-end", 3 << 20, [(0, b"only")])
    sparse(root + "/sparse-nothing", 1 << 20, [])
    sparse(root + "/sparse-9g", 9 << 30, [((8 << 30) + 4096, b"far")])


def tree(path, *parts):
    os.makedirs(path)
    for part in parts:
        part(path)
    return path


def main(out):
    os.makedirs(out + "/x")
    old = tree(out + "/t/old", small)
    ustar = tree(out + "/t/ustar", small, special)
    gnu = tree(out + "/t/gnu", small, special, large)
    pax = tree(out + "/t/pax", small, special, large, extended)
    gnu_pax = tree(out + "/t/gnu-pax", small, special, large, extended, equals)
    sparse_tree = tree(out + "/t/sparse", small, holes)
    made = []

    def add(name, *command):
        subprocess.run([part.replace("OUT", f"{out}/{name}.tar") for part in command], check=True)
        made.append(name)

    tar = ["tar", "--numeric-owner", "-cf", "OUT"]
    add("gnutar-v7", *tar, "--format=v7", "-C", old, ".")
    add("gnutar-ustar", *tar, "--format=ustar", "-C", ustar, ".")
    add("gnutar-oldgnu", *tar, "--format=oldgnu", "-C", gnu, ".")
    add("gnutar-gnu", *tar, "--format=gnu", "-C", gnu, ".")
    add("gnutar-posix", *tar, "--format=posix", "--xattrs", "--xattrs-include=*", "-C", gnu_pax, ".")
    add("gnutar-global", *tar, "--format=posix", "--pax-option=globexthdr.name=g,comment=all,gname=x", "-C", gnu, ".")
    add("gnutar-oldgnu-sparse", *tar, "--format=oldgnu", "-S", "-C", sparse_tree, ".")
    add("gnutar-gnu-sparse", *tar, "--format=gnu", "-S", "-C", sparse_tree, ".")
    for version in ["0.0", "0.1", "1.0"]:
        add(f"gnutar-sparse-{version}", *tar, "--format=posix", f"--sparse-version={version}", "-S", "-C", sparse_tree, ".")
    # The same path twice, the second time something else.
    add("gnutar-twice", *tar, "-C", old, "./file", "./dir", "--transform=s,^./old,./file,", "./old")

    bsdtar = ["bsdtar", "--numeric-owner", "-cf", "OUT"]
    add("bsdtar-v7", *bsdtar, "--format=v7", "-C", old, ".")
    add("bsdtar-ustar", *bsdtar, "--format=ustar", "-C", ustar, ".")
    add("bsdtar-gnutar", *bsdtar, "--format=gnutar", "-C", gnu, ".")
    add("bsdtar-pax", *bsdtar, "--format=pax", "--xattrs", "-C", pax, ".")
    add("bsdtar-restricted", *bsdtar, "--format=paxr", "-C", pax, ".")
    add("bsdtar-pax-sparse", *bsdtar, "--format=pax", "--read-sparse", "-C", sparse_tree, ".")

    for name, form, root in [
        ("python-ustar", tarfile.USTAR_FORMAT, ustar),
        ("python-gnu", tarfile.GNU_FORMAT, gnu),
        ("python-pax", tarfile.PAX_FORMAT, pax),
    ]:
        with tarfile.open(f"{out}/{name}.tar", "w", format=form) as archive:
            archive.add(root, ".", filter=lambda entry: entry if entry.name != "./owner" or form != 0 else None)
        made.append(name)

    for name in made:
        os.makedirs(f"{out}/x/{name}")
        # GNU tar sets the times of directories too early where their files come after other directories.
        reader = ["bsdtar"] if name.startswith("bsdtar") else ["tar", "--xattrs", "--xattrs-include=*"]
        subprocess.run(reader + ["--numeric-owner", "-xpf", f"{out}/{name}.tar", "-C", f"{out}/x/{name}"], check=True)
    print("\n".join(made))


if __name__ == "__main__":
    main(sys.argv[1])
