"""Facts of an image's tree that the visits need: which files to read first, how many bytes there are."""

import json
import os

VERSION = 2  # of what is kept beside the runs
SMALL_FILES, LARGE_FILES = 5, 3
LARGE = 4 << 20  # the largest chunk that images are made of


def facts_of(image, work):
    """entries; file_bytes; files (regular ones); small_files (2 to 32 KiB, far apart in the order of the
    directories) and large_files (above 4 MiB, the named one first) for first reads; large_file."""
    kept = work / f"runs/facts-{image.name}.json"
    stamp = [VERSION, str(image.root), os.stat(image.root).st_ctime_ns]
    if kept.exists():
        facts = json.loads(kept.read_text())
        if facts["stamp"] == stamp:
            return facts
    entries = size = count = 0
    large, small = [], []
    for directory, subdirectories, names in os.walk(image.root):
        subdirectories.sort()
        entries += len(subdirectories) + len(names)
        for name in sorted(names):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            size += status.st_size
            count += 1
            relative = os.path.relpath(path, image.root)
            if status.st_size > LARGE or not large:
                large.append((status.st_size, relative))
            if 2048 <= status.st_size <= 32768 or not small:
                small.append(relative)
    large.sort(reverse=True)
    first = image.large_file or large[0][1]
    others = [path for bytes, path in large if path != first and bytes > LARGE]
    facts = {
        "stamp": stamp,
        "entries": entries,
        "file_bytes": size,
        "files": count,
        "large_file": first,
        "large_files": [first, *others][:LARGE_FILES],
        "small_files": [
            small[(2 * number + 1) * len(small) // (2 * SMALL_FILES)] for number in range(SMALL_FILES)
        ],
    }
    kept.write_text(json.dumps(facts))
    return facts
