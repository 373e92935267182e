"""crfs itself, with `$CRFS_BINARY`."""

import os

from compare import cleanup, tools
from compare.contenders import base

# What this version cannot do yet, by what a scenario needs. A later version removes its lines; the one for
# profiles also adds their visit to scenarios.VISITS.
NOT_YET = {
    "landmark": "prefetch",
    "profile": "profiles",
    "background": "background fetch",
    "zstdchunked": "zstd:chunked",
    "gzip": "plain gzip layers",
}


class Crfs(base.Daemon):
    name = "crfs"
    about = "this project: one daemon, its defaults, a cache directory of its own"
    needs = ()

    def unavailable(self):
        binary = os.environ.get("CRFS_BINARY")
        if not binary or not os.access(binary, os.X_OK):
            return "CRFS_BINARY does not name the crfs program (make sets it)"
        return None

    def not_yet(self, scenario):
        for need in (*scenario.needs, *self.needs):
            if need in NOT_YET:
                return NOT_YET[need]
        return None

    def version(self):
        return "crfs " + cleanup.run([os.environ["CRFS_BINARY"], "version"]).stdout.split("\n")[
            0
        ].removeprefix("crfs ")

    def mount(self, image, origin, variant, limit, prefetch=False):
        point = self.directory("mnt")
        command = [
            os.environ["CRFS_BINARY"],
            "mount",
            "--foreground",
            "--cache-dir",
            self.cache(),
            "--local-dir",
            self.directory("local"),
        ]
        if origin.plain_http:
            command += ["--insecure-registry", origin.host]
        if origin.ca_file:
            command += ["--ca-file", origin.ca_file]
        root = f"{point}/images/{origin.host}/{image.reference_repo}/{image.variants[variant]}/"
        seconds = self.serve([*command, point], root, origin, limit)
        return base.Mounted(root, [root], seconds)

    def cache(self):
        """The cache directory, which only its owner may enter."""
        path = self.directory("cache")
        path.chmod(0o700)
        return path

    def disk_bytes(self):
        return tools.disk_usage(self.cache())


class CrfsBackground(Crfs):
    name = "crfs-background"
    about = "the same with background fetch"
    needs = ("background",)
