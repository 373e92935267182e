"""What visits do with a mounted image: the job, reading, fio."""

import json
import subprocess

from compare import cleanup, tools

# Of the large file's blocks, each at most once; slow contenders end earlier, by time.
FIO_READS = 16384
FIO_BLOCK = 4096


def job(visit, mounted):
    """Seconds of the image's job in a chroot over a new overlay (upper on tmpfs), its mount included."""
    scratch = cleanup.tree(visit.work / "runs/job")
    try:
        cleanup.run(["mount", "-t", "tmpfs", "tmpfs", scratch], timeout=visit.left())
        for name in ("upper", "work", "root"):
            (scratch / name).mkdir()
        lower = ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in mounted.lower)
        options = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"
        before = tools.monotonic()
        cleanup.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, scratch / "root"], timeout=visit.left()
        )
        cleanup.run(
            [tools.program("chroot"), scratch / "root", *visit.image.job],
            timeout=visit.left(),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"},
        )
        return tools.monotonic() - before
    finally:
        cleanup.remove_tree(scratch)


def timed(visit, command):
    """Seconds of a command from exec to its end, its output thrown away."""
    before = tools.monotonic()
    cleanup.run(command, timeout=visit.left(), stdout=subprocess.DEVNULL)
    return tools.monotonic() - before


def first_reads(visit, mounted, files):
    """Milliseconds of open, read of 4 KiB and close of each file, with pauses between them."""
    names = "".join(f"{mounted.root}/{file}\n" for file in files)
    return [nanoseconds / 1e6 for nanoseconds in visit.probe("first", input=names)[::2]]


def stat_all(visit, mounted):
    """Seconds of lstat of every entry; there must be as many as the image has."""
    nanoseconds, entries = visit.probe("stat", mounted.root)
    if entries != visit.image.facts["entries"]:
        raise cleanup.Failed(f"{entries} entries found of {visit.image.facts['entries']}")
    return nanoseconds / 1e9


def read_all(visit, mounted, readers=1):
    """Seconds of reading every file; the bytes read must be the image's."""
    nanoseconds, _, size = visit.probe("read", mounted.root, str(readers))
    expected = visit.image.facts["file_bytes"]
    if size != expected:
        raise cleanup.Failed(f"{size} bytes read of {expected}")
    return nanoseconds / 1e9


def read_files(visit, mounted, files):
    """Seconds of open, read to the end and close of these files, one after the other."""
    nanoseconds, _, _ = visit.probe("files", mounted.root, input="".join(f"{file}\n" for file in files))
    return nanoseconds / 1e9


def fio(visit, mounted):
    """4 KiB reads at random places of the large file, one at a time, no place twice.

    The kernel is told that they are random, since its read-ahead would otherwise bring the whole file within a
    second. Returns reads a second, how many there were, and the bytes that fio and the contender read from the disk
    for each byte asked for: a figure out of the page cache shows as a small number there.
    """
    # fio takes a list of files, with colons between.
    file = f"{mounted.root}/{visit.image.facts['large_file']}".replace(":", "\\:")
    cleanup.run(["fio", "--version"], timeout=visit.left())  # Its libraries were dropped too, and are large.
    before = tools.disk_reads(visit.contender.pid())
    output = cleanup.run(
        [
            "fio",
            "--name=random",
            f"--filename={file}",
            "--rw=randread",
            f"--bs={FIO_BLOCK}",
            "--ioengine=psync",
            "--readonly",
            "--invalidate=0",
            "--fadvise_hint=random",
            "--allow_file_create=0",
            f"--number_ios={FIO_READS}",
            f"--runtime={visit.fio_seconds}",
            "--randseed=1",
            "--output-format=json",
        ],
        timeout=visit.left(),
    ).stdout
    read = json.loads(output[output.index("{") :])["jobs"][0]["read"]
    from_disk = tools.disk_reads(visit.contender.pid()) - before
    return {
        "value": read["iops"],
        "reads": read["total_ios"],
        "disk_ratio": round(from_disk / (read["total_ios"] * FIO_BLOCK), 3),
    }
