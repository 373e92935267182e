#!/usr/bin/env python3
"""Packs a small root file system, with Python in it, out of this machine's own files.

usage: mkroot.py OUTPUT.tar

It holds a shell, a few tools and the system's Python with its standard library, the shared libraries that all of these need, and
nothing else: about 60 MB that need no network and no package manager. Works on Debian 12 and its like; standard library only.
"""
import os
import re
import subprocess
import sys
import tarfile

PROGRAMS = ["/bin/sh", "/bin/ls", "/bin/cat", "/usr/bin/id", "/usr/bin/env", "/usr/bin/python3"]
LEFT_OUT = re.compile(r"/(__pycache__|test|tests|idlelib|lib2to3|ensurepip|turtledemo|site-packages|config-[^/]*)(/|$)")


class Tree:
    """Paths of this machine that go into the archive, with every directory and symbolic link on the way to them."""

    def __init__(self):
        self.paths = {"/"}

    def add(self, path):
        """Adds a path; where a component is a symbolic link, the link and what it leads to."""
        done, rest = "/", [part for part in path.split("/") if part]
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = os.path.dirname(done)
                continue
            current = os.path.join(done, part)
            self.paths.add(current)
            if os.path.islink(current):
                target = os.readlink(current)
                rest = [p for p in target.split("/") if p and p != "."] + rest
                done = "/" if target.startswith("/") else done
            else:
                done = current
        return done

    def add_program(self, path):
        self.add_libraries(self.add(path))

    def add_libraries(self, path):
        listed = subprocess.run(["ldd", path], capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            if found := re.search(r"(/\S+) \(0x", line):
                self.add(found[1])

    def add_directory(self, top):
        for directory, _, files in os.walk(self.add(top)):
            if LEFT_OUT.search(directory):
                continue
            self.add(directory)
            for name in files:
                path = os.path.join(directory, name)
                if LEFT_OUT.search(path) or not (os.path.isfile(path) or os.path.islink(path)):
                    continue
                self.add(path)
                if name.endswith(".so"):
                    self.add_libraries(path)


def directory(name, mode=0o755):
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info


def owned_by_root(info):
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def main():
    tree = Tree()
    for program in PROGRAMS:
        tree.add_program(program)
    # The system's Python says where its library is: this script may be run by another one.
    where = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    tree.add_directory(subprocess.check_output(["/usr/bin/python3", "-c", where], text=True).strip())
    for path in ("/etc/os-release", "/etc/debian_version"):
        if os.path.exists(path):
            tree.add(path)
    with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.paths):
            archive.add(path, arcname="." + path, recursive=False, filter=owned_by_root)
        for name, mode in (("proc", 0o555), ("sys", 0o555), ("dev", 0o755), ("run", 0o755), ("tmp", 0o1777)):
            archive.addfile(directory("./" + name, mode))


if __name__ == "__main__":
    main()
