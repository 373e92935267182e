"""The images: built once, kept in the work directory, pushed into the storage of a registry in every format.

usage: python3 -m compare.images [NAME...]     (as root; CRFS_BINARY names the crfs that converts)

Each product of a step appears under its final name only when it is complete, so an interrupted build goes on
where it was. What a finished image leaves is `<work>/images/NAME/`: `root` (the unpacked tree, for the local
bounds) and `image.json`; its blobs are in `<work>/registry`.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from compare import cleanup, origin, tools, trees

# Images of another number are built again. To be counted up with every change of what is built.
RECIPE = 1
TAGS = {
    "gzip": "gzip",
    "estargz": "estargz",
    "estargz-ordered": "estargz-ordered",
    "stargz": "stargz",
    "zstdchunked": "zstdchunked",
}
FREE_BYTES_NEEDED = 12 << 30
WORKERS = 2

Log = Callable[[str], None]


@dataclasses.dataclass
class Image:
    """An image that is complete; sizes in bytes."""

    name: str
    reference_repo: str  # repository in the registry
    variants: dict[str, str]  # format -> tag
    digests: dict[str, str]  # format -> digest of the manifest
    root: str  # the unpacked tree
    entries: int
    bytes: int  # of all files, uncompressed
    layers: list[dict]  # of the gzip variant, bottom first: digest, size, diffid
    variant_layers: dict[str, list[dict]]  # the same of every format
    job: list[str]  # the command that is run in it, by chroot
    hot_files: list[str]  # what the job reads, in order of first use; no leading slash
    large_file: str | None  # an incompressible one, for random reads

    def reference(self, variant: str, host: str) -> str:
        """`host/repository:tag` of one format."""
        return f"{host}/{self.reference_repo}:{self.variants[variant]}"


class Builder:
    """Builds one image in `<work>/images/NAME`; steps that are done are skipped."""

    def __init__(self, work: pathlib.Path, recipe: "trees.Recipe", log: Log):
        self.work = work
        self.recipe = recipe
        self.directory = work / "images" / recipe.name
        self.parts = self.directory / "parts"
        self.root = self.directory / "root"
        self._log = log
        self._children: set[subprocess.Popen] = set()

    def log(self, text: str) -> None:
        self._log(f"{self.recipe.name}: {text}")

    def build(self) -> None:
        """All steps; `parts` goes when the image is complete."""
        stamp = self.parts / f"recipe-{RECIPE}"
        if not stamp.exists():
            for old in (self.parts, self.root):
                shutil.rmtree(old, ignore_errors=True)
            self.parts.mkdir(parents=True)
            stamp.touch()
        tars = self.recipe.layers(self.parts, self.work / "images" / "cache", self.log)
        self.unpack(tars)
        hot = self.hot_files()
        layers = self.compress(tars, hot)
        digests = self.push(layers)
        entries, size = trees.census(self.root)
        image = Image(
            name=self.recipe.name,
            reference_repo=f"bench/{self.recipe.name}",
            variants={variant: TAGS[variant] for variant in self.recipe.variants},
            digests=digests,
            root=str(self.root),
            entries=entries,
            bytes=size,
            layers=layers["gzip"],
            variant_layers=layers,
            job=self.recipe.job,
            hot_files=hot,
            large_file=self.recipe.large_file,
        )
        _write_json(self.directory / "image.json", {"recipe": RECIPE, **dataclasses.asdict(image)})
        shutil.rmtree(self.parts)
        packed = sum(layer["size"] for layer in layers["gzip"])
        self.log(f"complete: {entries} entries, {size / 1e6:.0f} MB, {packed / 1e6:.0f} MB as gzip")

    def unpack(self, tars: list[pathlib.Path]) -> None:
        """The tree that the layers make; they have no whiteouts."""
        if self.root.exists():
            return
        self.log("unpacking the tree")
        with trees.product(self.root) as new:
            new.mkdir()
            for tar in tars:
                cleanup.run(["tar", "-x", "--numeric-owner", "-p", "-f", tar, "-C", new])

    def hot_files(self) -> list[str]:
        """What the job reads, recorded once."""
        record = self.parts / "hot.json"
        if not record.exists():
            with trees.product(record) as new:
                _write_json(new, trees.files_read(self.root, self.recipe.job) if self.recipe.job else [])
        return json.loads(record.read_text())

    # Layers in every format.

    def compress(self, tars: list[pathlib.Path], hot: list[str]) -> dict[str, list[dict]]:
        """Variant -> layers (digest, size, diffid, tocDigest or None, path)."""
        jobs = [
            (variant, number, tar)
            for variant in self.recipe.variants
            if variant != "zstdchunked"
            for number, tar in enumerate(tars)
        ]
        layers: dict[str, list[dict]] = {variant: [{}] * len(tars) for variant in self.recipe.variants}
        # The largest first, so that the last one does not run alone for long.
        jobs.sort(key=lambda job: -job[2].stat().st_size)
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            running = {
                pool.submit(self.compress_one, variant, tar, hot): (variant, number)
                for variant, number, tar in jobs
            }
            try:
                for count, done in enumerate(concurrent.futures.as_completed(running), start=1):
                    variant, number = running[done]
                    layers[variant][number] = done.result()
                    self.log(f"layer {number + 1} as {variant} ({count} of {len(running)})")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(self._children):
                    child.terminate()
                raise
        return layers

    def compress_one(self, variant: str, tar: pathlib.Path, hot: list[str]) -> dict:
        blob = tar.with_suffix("." + variant)
        record = tar.with_suffix(f".{variant}.json")
        if record.exists():
            return json.loads(record.read_text())
        with trees.product(blob) as new:
            if variant == "gzip":
                with open(tar, "rb") as source, open(new, "wb") as target:
                    self.run(["gzip", "-6", "-n"], stdin=source, stdout=target)
                facts = {"diffid": _digest_of(tar), "tocDigest": None}
            else:
                facts = self.convert(variant, tar, new, hot)
        layer = {"digest": _digest_of(blob), "size": blob.stat().st_size, **facts, "path": str(blob)}
        with trees.product(record) as new:
            _write_json(new, layer)
        return layer

    def convert(self, variant: str, tar: pathlib.Path, blob: pathlib.Path, hot: list[str]) -> dict:
        """By crfs; only a layer that has hot files gets an order (and with it the landmark)."""
        command = [_crfs(), "convert", "--quiet"]
        if variant == "stargz":
            command += ["--format", "stargz"]
        if variant == "estargz-ordered":
            own = [path for path in hot if path in trees.names(tar)]
            if own:
                order = tar.with_suffix(".order")
                order.write_text("".join(path + "\n" for path in own))
                command += ["--prioritize", order]
        output = self.run([*command, f"file:{tar}", f"file:{blob}"], stdout=subprocess.PIPE)
        facts = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
        # A stargz image has no annotation, as its inventors wrote it.
        return {"diffid": facts["diff-id"], "tocDigest": None if variant == "stargz" else facts["toc-digest"]}

    def run(self, command: list, **options) -> str:
        """Runs a command of a worker thread; `compress` ends it when the build is given up."""
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as child:
            self._children.add(child)
            try:
                output, error = child.communicate()
            finally:
                self._children.discard(child)
        if child.returncode != 0:
            raise cleanup.Failed(
                f"{' '.join(map(str, command))}: exit {child.returncode}: {error.strip()[-400:]}"
            )
        return output

    # The registry.

    def push(self, layers: dict[str, list[dict]]) -> dict[str, str]:
        """Pushes every variant and fills in the layers of zstd:chunked; returns the manifests' digests."""
        layout = self.parts / "layout"
        shutil.rmtree(layout, ignore_errors=True)
        digests = {}
        scratch = cleanup.tree(self.work / "runs" / f"push-{os.getpid()}")
        registry = origin.Registry(scratch, self.work / "registry", readonly=False)
        try:
            for variant in self.recipe.variants:
                self.log(f"pushing {variant}")
                if variant == "zstdchunked":
                    # skopeo compresses only what is not compressed yet.
                    more = ["--dest-compress-format", "zstd:chunked"]
                    _write_layout(layout, variant, _uncompressed(layers["gzip"]), suffix="")
                else:
                    more = ["--preserve-digests"]
                    _write_layout(layout, variant, layers[variant], suffix="+gzip")
                target = f"{registry.address}/bench/{self.recipe.name}:{TAGS[variant]}"
                cleanup.run(
                    ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *more]
                    + [f"oci:{layout}:{variant}", f"docker://{target}"]
                )
                digest, manifest = tools.stored_manifest(
                    self.work, f"bench/{self.recipe.name}", TAGS[variant]
                )
                digests[variant] = digest
                if variant == "zstdchunked":
                    layers[variant] = _chunked_layers(manifest, layers["gzip"])
        finally:
            registry.close()
            cleanup.remove_tree(scratch)
        for layer in (layer for variant in layers.values() for layer in variant):
            layer.pop("path", None)
        return digests


def _chunked_layers(manifest: dict, gzip_layers: list[dict]) -> list[dict]:
    """What skopeo wrote; the DiffIDs are those of the source."""
    found = []
    for descriptor, source in zip(manifest["layers"], gzip_layers):
        annotations = descriptor.get("annotations", {})
        if not any("zstd-chunked.manifest" in key for key in annotations):
            raise cleanup.Failed(f"skopeo wrote no zstd:chunked layer: {descriptor}")
        found.append(
            {
                "digest": descriptor["digest"],
                "size": descriptor["size"],
                "diffid": source["diffid"],
                "tocDigest": None,
            }
        )
    return found


def _uncompressed(gzip_layers: list[dict]) -> list[dict]:
    """The tar archives as layers."""
    tars = [(layer, pathlib.Path(layer["path"]).with_suffix(".tar")) for layer in gzip_layers]
    return [
        {**layer, "digest": layer["diffid"], "size": tar.stat().st_size, "path": str(tar)}
        for layer, tar in tars
    ]


def _write_layout(layout: pathlib.Path, tag: str, layers: list[dict], suffix: str) -> None:
    """Adds an image of these blobs to an OCI layout; `suffix` is their compression."""
    path = tools.ROOT / "Tests/TestSupport/mklayout.py"
    spec = importlib.util.spec_from_file_location("mklayout", path)
    mklayout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mklayout)
    writer = mklayout.Layout(str(layout))
    descriptors = []
    for layer in layers:
        # Linked into the layout rather than copied into it.
        blob = layout / "blobs/sha256" / layer["digest"][7:]
        if not blob.exists():
            os.link(layer["path"], blob)
        media_type = mklayout.GZIP_LAYER.removesuffix("+gzip") + suffix
        descriptor = {"mediaType": media_type, "digest": layer["digest"], "size": layer["size"]}
        if layer["tocDigest"]:
            descriptor["annotations"] = {"containerd.io/snapshot/stargz/toc.digest": layer["tocDigest"]}
        descriptors.append(descriptor)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["diffid"] for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": mklayout.MANIFEST,
        "config": writer.add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": descriptors,
    }
    writer.tag(tag, writer.add(json.dumps(manifest).encode(), mklayout.MANIFEST))


def _crfs() -> str:
    binary = os.environ.get("CRFS_BINARY") or shutil.which("crfs")
    if not binary or not os.access(binary, os.X_OK):
        raise cleanup.Failed("no crfs to convert layers with: set CRFS_BINARY, or `make build`")
    return binary


def _digest_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))


@contextlib.contextmanager
def _locked(work: pathlib.Path, log: Log) -> Iterator[None]:
    """One builder at a time in a work directory."""
    (work / "images").mkdir(parents=True, exist_ok=True)
    with open(work / "images/lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("waiting for another build in this work directory")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def missing_packages() -> list[str]:
    """Debian packages that building needs and that are not there."""
    needed = {
        "debootstrap": "debootstrap",
        "skopeo": "skopeo",
        "docker-registry": "docker-registry",
        "strace": "strace",
        "gzip": "gzip",
        "unshare": "util-linux",
    }
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {package for program, package in needed.items() if not shutil.which(program, path=path)}
    if not importlib.util.find_spec("pip"):
        missing.add("python3-pip")
    return sorted(missing)


def names() -> list[str]:
    """All images, in the order in which they are built: what is quick comes first."""
    return [recipe.name for recipe in trees.RECIPES]


def is_complete(work: pathlib.Path, name: str) -> bool:
    """Whether `load` would find this image."""
    record = pathlib.Path(work) / "images" / name / "image.json"
    return record.exists() and json.loads(record.read_text())["recipe"] == RECIPE


def build_all(work: pathlib.Path, log: Log = tools.say, only: list[str] | None = None) -> None:
    """Builds what is missing: all images, or those in `only`."""
    work = pathlib.Path(work)
    if os.geteuid() != 0:
        raise cleanup.Failed("the images can only be built as root (debootstrap, owners of files)")
    if missing := missing_packages():
        raise cleanup.Failed(f"the images need, as root: apt-get install {' '.join(missing)}")
    started = time.monotonic()

    def timed(text: str) -> None:
        seconds = int(time.monotonic() - started)
        log(f"[{seconds // 60}:{seconds % 60:02}] {text}")

    with _locked(work, timed):
        for recipe in trees.RECIPES:
            if only and recipe.name not in only:
                continue
            if is_complete(work, recipe.name):
                timed(f"{recipe.name}: is there")
                continue
            if tools.free_bytes(work) < FREE_BYTES_NEEDED:
                raise cleanup.Failed(
                    f"{work} has less than {FREE_BYTES_NEEDED >> 30} GiB free (set CRFS_BENCH_DIR)"
                )
            Builder(work, recipe, timed).build()


def load(work: pathlib.Path, name: str) -> Image:
    """A complete image."""
    record = pathlib.Path(work) / "images" / name / "image.json"
    if name not in names() or not is_complete(work, name):
        raise cleanup.Failed(f"no image {name} in {work}: make bench-image")
    fields = json.loads(record.read_text())
    del fields["recipe"]
    return Image(**fields)


def self_check(work: pathlib.Path) -> list[str]:
    """What is wrong with the small image, which is built if it is not there; at most a minute."""
    build_all(work, only=["small"])
    image = load(work, "small")
    failures = []
    entries, size = trees.census(pathlib.Path(image.root))
    if (entries, size) != (image.entries, image.bytes):
        failures.append(
            f"small: the tree has {entries} entries, {size} bytes, not {image.entries}, {image.bytes}"
        )
    for variant, layers in image.variant_layers.items():
        for layer in layers:
            blob = origin.blob_path(pathlib.Path(work), layer["digest"])
            if (
                not blob.exists()
                or blob.stat().st_size != layer["size"]
                or _digest_of(blob) != layer["digest"]
            ):
                failures.append(
                    f"small: blob {layer['digest']} of {variant} is not in the registry as it should be"
                )
    if trees.files_read(pathlib.Path(image.root), image.job) != image.hot_files:
        failures.append("small: its job reads other files than when it was built")
    return failures


def main() -> None:
    work = tools.work_directory()
    cleanup.install(work)
    try:
        build_all(work, only=sys.argv[1:])
    except cleanup.Failed as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    main()
