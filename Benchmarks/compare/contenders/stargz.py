"""stargz-snapshotter's file system, by a small program of ours around the library that Debian packages."""

import pathlib
import shutil

from compare import cleanup, tools
from compare.contenders import base

LIBRARY = pathlib.Path("/usr/share/gocode/src/github.com/containerd/stargz-snapshotter")
PACKAGE = "golang-github-containerd-stargz-snapshotter-dev"
SOURCE = tools.HERE / "contenders/stargzfs/main.go"


class Stargz(base.Daemon):
    name = "stargz-default"
    about = "stargz-snapshotter's file system, 50,000 bytes a request, background fetch and prefetch off"
    keeps_mount = True  # its daemon keeps a layer mounted while its image is there; its caches end with it
    options = ()

    def unavailable(self):
        if not LIBRARY.is_dir():
            return f"{PACKAGE} is not installed"
        if not tools.program("go"):
            return "golang-go is not installed"
        return None

    def build(self):
        self.program = self.work / "go/stargzfs"
        if tools.is_newer(self.program, SOURCE):
            return
        package = self.work / "go/src/stargzfs"
        package.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCE, package / "main.go")
        cleanup.run(
            [
                "env",
                "GO111MODULE=off",
                f"GOPATH={self.work}/go:/usr/share/gocode",
                f"GOCACHE={self.work}/go/cache",
                "go",
                "build",
                "-o",
                self.program,
                ".",
            ],
            cwd=package,
            timeout=600,
        )

    def version(self):
        return (
            "stargz-snapshotter "
            + cleanup.run(["dpkg-query", "-W", "-f", "${Version}", PACKAGE], check=False).stdout
        )

    def mount(self, image, origin, variant, limit, prefetch=False):
        state = self.directory("state")
        options = [*self.options]
        if prefetch and "-prefetch" not in options:
            options.append("-prefetch")
        if variant == "stargz":
            options.append("-unverified")
        command = [
            self.program,
            "-scheme",
            "http" if origin.plain_http else "https",
            "-root",
            state,
            *options,
            f"{origin.host}/{image.reference_repo}:{image.variants[variant]}",
        ]
        trust = {"SSL_CERT_FILE": str(origin.ca_file)} if origin.ca_file else {}
        seconds = self.serve(command, f"{state}/rootfs", origin, limit, trust)
        # A container's overlay has the layers themselves below it, not an overlay of them.
        count = len(list((state / "layers").iterdir())) - 1
        layers = [f"{state}/layers/{number}" for number in reversed(range(count))]
        return base.Mounted(f"{state}/rootfs", layers, seconds)

    def disk_bytes(self):
        return tools.disk_usage(self.directory("state") / "cache")


class StargzBackground(Stargz):
    name = "stargz-background"
    about = "the same with background fetch, and prefetch of 10 MiB or up to the landmark"
    options = ("-background", "-prefetch")


class StargzLargeChunks(Stargz):
    name = "stargz-1m"
    about = "the same with 1 MiB a request, background fetch and prefetch off: its best setting"
    options = ("-chunk-size", "1048576")
