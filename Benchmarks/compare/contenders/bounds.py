"""Local bounds: the same files already on this machine's disk, which no way of getting them can beat."""

import os
import pathlib

from compare import cleanup, tools
from compare.contenders import base


class Tree(base.Contender):
    name = "ext4"
    kind = base.BOUND
    about = "the unpacked tree on the work directory's disk"
    keeps_mount = True

    def version(self):
        kind = cleanup.run(["findmnt", "-n", "-o", "FSTYPE", "--target", str(self.work)]).stdout.strip()
        return f"{kind} of Linux {os.uname().release}"

    def local_files(self, image):
        return image.root

    def mount(self, image, origin, variant, limit, prefetch=False):
        return base.Mounted(str(image.root), [str(image.root)], 0.0)


class Packed(base.Daemon):
    """A bound that needs a file made from the tree, kept beside the image."""

    kind = base.BOUND
    keeps_mount = True
    program = suffix = ""

    def unavailable(self):
        return None if tools.program(self.program) else f"not installed: {self.program}"

    def file(self, image):
        """Where the packed file of an image is kept."""
        return self.work / f"images/bounds/{image.name}.{self.suffix}"

    def local_files(self, image):
        return self.file(image)

    def pack(self, root, output):
        """The command that packs `root`."""
        raise NotImplementedError

    def prepare(self, image):
        output = self.file(image)
        if output.exists():
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        incoming = pathlib.Path(f"{output}.new")
        incoming.unlink(missing_ok=True)
        cleanup.run(self.pack(image.root, incoming), timeout=1200)
        incoming.rename(output)


class Erofs(Packed):
    name = "erofs"
    about = "an erofs image (lz4), loop-mounted"
    program, suffix = "mkfs.erofs", "erofs"

    def unavailable(self):
        with open("/proc/filesystems") as table:
            if "erofs" not in table.read() and cleanup.run(["modprobe", "erofs"], check=False).returncode:
                return "the kernel has no erofs"
        return super().unavailable()

    def version(self):
        result = cleanup.run(["mkfs.erofs", "--version"], check=False)
        return " ".join((result.stdout + result.stderr).split()[:2])

    def pack(self, root, output):
        return ["mkfs.erofs", "-zlz4", "--quiet", output, root]

    def mount(self, image, origin, variant, limit, prefetch=False):
        point = self.directory("mnt")
        before = tools.monotonic()
        cleanup.run(["mount", "-t", "erofs", "-o", "ro,loop", self.file(image), point], timeout=30)
        return base.Mounted(str(point), [str(point)], tools.monotonic() - before)


class Squashfuse(Packed):
    name = "squashfuse"
    about = "a squashfs image (zstd), mounted by squashfuse"
    program, suffix = "squashfuse", "squashfs"

    def unavailable(self):
        if not tools.program("mksquashfs"):
            return "not installed: squashfs-tools"
        return super().unavailable()

    def version(self):
        return (
            "squashfuse "
            + cleanup.run(["dpkg-query", "-W", "-f", "${Version}", "squashfuse"], check=False).stdout
        )

    def pack(self, root, output):
        return ["mksquashfs", root, output, "-comp", "zstd", "-noappend", "-quiet", "-no-progress"]

    def mount(self, image, origin, variant, limit, prefetch=False):
        point = self.directory("mnt")
        command = ["squashfuse", "-f", "-o", "allow_other", self.file(image), point]
        seconds = self.serve(command, str(point), None, limit)
        return base.Mounted(str(point), [str(point)], seconds)
