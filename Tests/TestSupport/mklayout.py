#!/usr/bin/env python3
"""Makes an OCI image layout from layer files, so that an image can be pushed byte for byte.

usage: mklayout.py LAYOUT TAG [--platform OS/ARCH] [--media-type TYPE] [--diff-id DIGEST] LAYER…
       mklayout.py LAYOUT TAG --index OTHER_TAG…

LAYER is a file, bottom layer first: .tar, or a .tar.gz, eStargz or stargz, or .tar.zst. An eStargz layer (51-byte footer) gets the annotation
with the digest of its TOC, which is computed here from the blob; a stargz layer (47 bytes) gets none, as its inventors did it. A zstd:chunked
layer gets the annotations of the containers tools, under both prefixes, computed from its footer. A layer that
is no gzip file at all is taken as it is (its DiffID is then its own digest). With --index, TAG becomes an image index of images
that are already in the layout. --diff-id is what the configuration claims of every layer, true or not. The same layout can be extended by further calls. Prints the digest of the manifest.
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import tarfile
import zlib

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Layout:
    def __init__(self, path):
        self.path = path
        os.makedirs(path + "/blobs/sha256", exist_ok=True)
        with open(path + "/oci-layout", "w") as file:
            file.write('{"imageLayoutVersion":"1.0.0"}')
        try:
            with open(path + "/index.json") as file:
                self.index = json.load(file)
        except FileNotFoundError:
            self.index = {"schemaVersion": 2, "manifests": []}

    def add(self, data, media_type, **more):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data), **more}

    def add_file(self, path, media_type, **more):
        digest, size = hashlib.sha256(), 0
        temporary = f"{self.path}/blobs/sha256/.incoming"
        with open(path, "rb") as source, open(temporary, "wb") as target:
            while piece := source.read(1 << 20):
                digest.update(piece)
                target.write(piece)
                size += len(piece)
        os.rename(temporary, f"{self.path}/blobs/sha256/{digest.hexdigest()}")
        return {"mediaType": media_type, "digest": "sha256:" + digest.hexdigest(), "size": size, **more}

    def tag(self, name, descriptor):
        key = "org.opencontainers.image.ref.name"
        rest = [d for d in self.index["manifests"] if d.get("annotations", {}).get(key) != name]
        self.index["manifests"] = rest + [{**descriptor, "annotations": {key: name}}]
        with open(self.path + "/index.json", "w") as file:
            json.dump(self.index, file)

    def tagged(self, name):
        for descriptor in self.index["manifests"]:
            if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == name:
                return {key: value for key, value in descriptor.items() if key != "annotations"}
        raise SystemExit(f"no tag {name} in {self.path}")


def toc_digest(path):
    """The digest of an eStargz layer's TOC; None for anything else, and for a layer that is broken on purpose."""
    try:
        return read_toc_digest(path)
    except (OSError, EOFError, OverflowError, MemoryError, zlib.error, tarfile.TarError, AttributeError):
        return None


def read_toc_digest(path):
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < 51:
            return None
        file.seek(size - 51)
        found = re.fullmatch(rb"\x1f\x8b\x08\x04.{6}\x1a\x00SG\x16\x00([0-9a-f]{16})STARGZ.*", file.read(51), re.S)
        if not found:
            return None
        start = int(found[1], 16)
        if start >= size - 51:
            return None
        file.seek(start)
        member = gzip.GzipFile(fileobj=io.BytesIO(file.read(size - 51 - start)))
        with tarfile.open(fileobj=member, mode="r|") as archive:
            entry = archive.next()
            return "sha256:" + hashlib.sha256(archive.extractfile(entry).read()).hexdigest()


def is_zstd(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x28\xb5\x2f\xfd"


def chunked_annotations(path):
    """The annotations of a zstd:chunked layer; none for anything else."""
    with open(path, "rb") as file:
        data = file.read()
    for payload in (40, 64):
        footer = data[-payload - 8 :]
        if footer[:8] != struct.pack("<II", 0x184D2A50, payload) or footer[-8:] not in (b"GNUlInUx", b"GnUlInUx"):
            continue
        offset, compressed, size, kind = struct.unpack("<4Q", footer[8:40])
        values = {
            "position": f"{offset}:{compressed}:{size}:{kind}",
            "checksum": "sha256:" + hashlib.sha256(data[offset : offset + compressed]).hexdigest(),
        }
        prefixes = ("io.containers", "io.github.containers")
        return {f"{p}.zstd-chunked.manifest-{name}": value for p in prefixes for name, value in values.items()}
    return {}


def uncompressed(path):
    """(digest, size) of what the layer inflates to, which is itself where it is no gzip file."""
    digest, size = hashlib.sha256(), 0
    if is_zstd(path):
        data = subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE).stdout
        return "sha256:" + hashlib.sha256(data).hexdigest(), len(data)
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    with (gzip.open(path) if is_gzip else open(path, "rb")) as file:
        try:
            while piece := file.read(1 << 20):
                digest.update(piece)
                size += len(piece)
        except (OSError, EOFError, zlib.error):
            pass  # A broken layer on purpose: no DiffID fits it.
    return "sha256:" + digest.hexdigest(), size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout")
    parser.add_argument("tag")
    parser.add_argument("layers", nargs="+", metavar="LAYER")
    parser.add_argument("--platform", default="linux/amd64")
    parser.add_argument("--media-type", default=None)
    parser.add_argument("--diff-id", default=None)
    parser.add_argument("--index", action="store_true")
    options = parser.parse_args()
    layout = Layout(options.layout)
    if options.index:
        manifests = []
        for tag in options.layers:
            descriptor = layout.tagged(tag)
            with open(f"{options.layout}/blobs/sha256/{descriptor['digest'][7:]}") as file:
                config = json.load(file)["config"]["digest"]
            with open(f"{options.layout}/blobs/sha256/{config[7:]}") as file:
                config = json.load(file)
            manifests.append({**descriptor, "platform": {"os": config["os"], "architecture": config["architecture"]}})
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        descriptor = layout.add(json.dumps(document).encode(), INDEX)
    else:
        layers, diff_ids = [], []
        for path in options.layers:
            annotations, (diff_id, size) = {}, uncompressed(path)
            if toc := toc_digest(path):
                annotations["containerd.io/snapshot/stargz/toc.digest"] = toc
                annotations["io.containers.estargz.uncompressed-size"] = str(size)
            media_type = options.media_type or GZIP_LAYER
            if options.media_type is None and path.endswith(".tar"):
                media_type = GZIP_LAYER.removesuffix("+gzip")
            if options.media_type is None and is_zstd(path):
                media_type = ZSTD_LAYER
                annotations = chunked_annotations(path)
            more = {"annotations": annotations} if annotations else {}
            layers.append(layout.add_file(path, media_type, **more))
            diff_ids.append(options.diff_id or diff_id)
        system, architecture = options.platform.split("/")
        config = {
            "architecture": architecture, "os": system, "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        document = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": layout.add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        }
        descriptor = layout.add(json.dumps(document).encode(), MANIFEST)
    layout.tag(options.tag, descriptor)
    print(descriptor["digest"])


if __name__ == "__main__":
    main()
