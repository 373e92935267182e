"""crfs itself, with `$CRFS_BINARY`."""

import functools
import os
import subprocess

from compare import cleanup, origin, tools
from compare.contenders import base

# What a version of crfs may lack, by what a scenario needs: (its name in the report, the command whose help
# tells, the word there). So the comparison runs with versions from before and after.
FEATURES = {
    "background": ("background fetch", ("mount",), "--no-background"),
    "landmark": ("prefetch", ("mount",), "--prefetch"),
    "profile": ("profiles", (), "profile"),
    "open": ("the option --open", ("mount",), "--open"),
    "index": ("published indexes", (), "index"),
    "image": ("mounts of one image", ("mount",), "--image"),
}
# Formats that a version may not read, by variant; and how crfs says that.
FORMATS = {"gzip": "plain gzip layers", "zstdchunked": "zstd:chunked"}
UNSUPPORTED = ("cannot be read lazily", "unsupported", "not supported", "this version reads")


def binary():
    return os.environ.get("CRFS_BINARY", "")


@functools.cache
def help_words(*command):
    """The words of the help of a command."""
    text = cleanup.run([binary(), *command, "--help"], check=False, timeout=20).stdout
    for mark in "/,<>[]()=":
        text = text.replace(mark, " ")
    return frozenset(text.split())


class Crfs(base.Daemon):
    name = "crfs"
    about = "this project: one daemon, background fetch off, a cache directory of its own"
    needs = ()
    background = "--no-background"
    options = ()
    maps_cache = True

    def __init__(self, work):
        super().__init__(work)
        self.reads = {}  # variant -> whether it is read
        self.profiles = None
        self.published = set()  # images whose index this run has published

    def unavailable(self):
        if not os.access(binary(), os.X_OK):
            return "CRFS_BINARY does not name the crfs program (make sets it)"
        return None

    def not_yet(self, scenario):
        for need in (*scenario.needs, *self.needs):
            name, command, word = FEATURES[need]
            if word not in help_words(*command):
                return name
        return None

    def version(self):
        text = cleanup.run([binary(), "version"]).stdout
        return "crfs " + text.split("\n")[0].removeprefix("crfs ")

    def command(self, *words, origin=None, cache=True):
        """A command line of crfs with the options that its help knows: cache directory, how to reach the origin."""
        known, line = help_words(*words), [binary(), *words]
        if cache and "--cache-dir" in known:
            line += ["--cache-dir", self.cache()]
        if origin and origin.plain_http and "--insecure-registry" in known:
            line += ["--insecure-registry", origin.host]
        if origin and origin.ca_file and "--ca-file" in known:
            line += ["--ca-file", origin.ca_file]
        return line

    def mount(self, image, origin, variant, limit, prefetch=False):
        point = self.directory("mnt")
        line = self.command("mount", origin=origin)
        line += ["--foreground", "--local-dir", self.directory("local"), *self.options]
        if self.background in help_words("mount"):
            line.append(self.background)
        what, root = self.shown(point, image, origin, variant)
        seconds = self.serve([*line, *what, point], root, origin, limit)
        return base.Mounted(root, [root], seconds)

    def shown(self, point, image, origin, variant):
        """Options that say what is mounted, and where the image's root is then."""
        return (), f"{point}/images/{origin.host}/{image.reference_repo}/{image.variants[variant]}/"

    def require(self, image, origin, variant, limit):
        if variant not in self.reads:
            reference = f"{origin.host}/{image.reference_repo}:{image.variants[variant]}"
            line = [*self.command("ls", origin=origin, cache=False), "--cache-dir", self.cache(), reference, "/"]
            result = cleanup.run(line, timeout=limit, check=False, env={**os.environ, **origin.env})
            refused = result.returncode and any(text in result.stderr for text in UNSUPPORTED)
            self.reads[variant] = not refused
        if not self.reads[variant]:
            raise base.NotYet(FORMATS.get(variant, variant))

    def process_start(self):
        before = tools.monotonic()
        process = cleanup.start([binary(), "version"], stdout=subprocess.DEVNULL)
        process.wait(20)
        seconds = tools.monotonic() - before
        cleanup.stop(process, grace=0)
        return seconds

    def cache(self):
        """The cache directory, which only its owner may enter."""
        path = self.directory("cache")
        path.chmod(0o700)
        return path

    def disk_bytes(self):
        return tools.disk_usage(self.cache())

    def index_bytes(self):
        """Bytes of the layer indexes and of the merged index in the cache directory."""
        return tuple(
            sum(file.stat().st_size for file in (self.cache() / name).glob("*.idx"))
            for name in ("layers", "images")
        )

    def publish_index(self, image, variant, limit):
        """Publishes the index of an image's plain layers, by this crfs, once in a run; the variant that has it.

        The origin is read-only: a registry of its own writes into the same storage.
        """
        indexed = f"{variant}-indexed"
        if image.name not in self.published:
            self.forget()
            registry = origin.Registry(self.directory("registry"), self.work / "registry", readonly=False)
            try:
                reference = f"{registry.address}/{image.reference_repo}:{image.variants[variant]}"
                cleanup.run([*self.command("index"), "--bind", indexed, reference], timeout=limit)
            finally:
                registry.close()
            self.published.add(image.name)
        image.variants[indexed] = indexed
        return indexed

    # Profiles.

    def profile_file(self, image, variant):
        """Where this run keeps the profile of an image; it is recorded anew in each."""
        if self.profiles is None:
            self.profiles = cleanup.tree(self.work / f"runs/profiles-{os.getpid()}-{self.name}")
        return self.profiles / f"{image.name}-{variant}"

    def export_profile(self, image, origin, variant, file, limit):
        """Writes what the mount before recorded; needs its cache directory, and none mounted."""
        reference = f"{origin.host}/{image.reference_repo}:{image.variants[variant]}"
        line = self.command("profile", "export", origin=origin)
        cleanup.run([*line, reference, file], timeout=limit, env={**os.environ, **origin.env})
        if not file.exists() or not file.stat().st_size:
            raise cleanup.Failed("crfs profile export wrote nothing")

    def import_profile(self, file, limit):
        """Puts the profile into the cache directory."""
        cleanup.run([*self.command("profile", "import"), file], timeout=limit)


class CrfsBackground(Crfs):
    name = "crfs-background"
    about = "the same with background fetch, as it comes"
    needs = ("background",)
    background = "--background"


class CrfsOpenNone(Crfs):
    name = "crfs-open-none"
    about = "crfs with `--open=none`: opening a file does not reach the daemon"
    needs = ("open",)
    options = ("--open=none",)


class CrfsOpenDaemon(Crfs):
    name = "crfs-open-daemon"
    about = "crfs with `--open=daemon`: opening a file reaches the daemon, which may hand it to the kernel"
    needs = ("open",)
    options = ("--open=daemon",)


class CrfsImage(Crfs):
    name = "crfs-image"
    about = "crfs with `--image`: the mount is of the image alone"
    needs = ("image",)

    def shown(self, point, image, origin, variant):
        return ("--image", f"{origin.host}/{image.reference_repo}:{image.variants[variant]}"), f"{point}/"
