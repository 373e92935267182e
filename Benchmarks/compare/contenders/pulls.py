"""Full pulls: everything is downloaded and unpacked before the first file can be read."""

import os
import pathlib
import resource
import shutil
import subprocess

from compare import cleanup, tools
from compare.contenders import base


class Pull(base.Contender):
    kind = base.PULL
    variant = "gzip"
    programs = ()

    def __init__(self, work):
        super().__init__(work)
        self.used = base.Cost()

    def unavailable(self):
        missing = [program for program in self.programs if not tools.program(program)]
        return f"not installed: {', '.join(missing)}" if missing else None

    def cost(self):
        return self.used

    def peak_memory(self):
        return self.used.peak_memory

    def pull(self, command, origin, limit, disk, daemon=None):
        """Runs the pull to its end and notes what it cost, a daemon's share included."""
        before_cpu = _children_cpu() + (tools.cpu_seconds(daemon) if daemon else 0)
        environment = {**os.environ, **origin.env}
        started = tools.monotonic()
        with open(self.log, "w") as log:
            process = cleanup.start(
                command, netns=origin.netns, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        samplers = [tools.Sampler(pid) for pid in (process.pid, daemon) if pid]
        try:
            process.wait(max(0.1, limit))
        except subprocess.TimeoutExpired:
            raise cleanup.Failed(f"{self.name}: not done after {limit:.0f} s") from None
        finally:
            memory = sum(sampler.stop() for sampler in samplers)
            cleanup.stop(process, grace=0)
        if process.returncode:
            raise cleanup.Failed(f"{self.name}: exit {process.returncode}: {self.log_tail()}")
        seconds = tools.monotonic() - started
        cpu = _children_cpu() + (tools.cpu_seconds(daemon) if daemon else 0) - before_cpu
        self.used = base.Cost(cpu, memory, tools.disk_usage(disk))
        return seconds


class Podman(Pull):
    name = "podman"
    about = "`podman pull` into an empty store of its own, then its image mount"
    programs = ("podman",)

    def unavailable(self):
        if not pathlib.Path("/etc/containers/policy.json").exists():
            return "podman has no /etc/containers/policy.json"
        return super().unavailable()

    def version(self):
        return cleanup.run(["podman", "--version"]).stdout.strip().replace(" version", "")

    def command(self, *words):
        return [
            "podman",
            "--root",
            self.directory("store"),
            "--runroot",
            self.directory("run"),
            "--storage-driver",
            "overlay",
            *words,
        ]

    def mount(self, image, origin, variant, limit, prefetch=False):
        reference = f"{origin.host}/{image.reference_repo}:{image.variants[variant]}"
        trust = ["--tls-verify=false"]
        if origin.ca_file:
            shutil.copy(origin.ca_file, self.directory("certs") / "ca.crt")
            trust = ["--cert-dir", self.directory("certs")]
        seconds = self.pull(
            self.command("pull", "-q", *trust, reference), origin, limit, self.directory("store")
        )
        before = tools.monotonic()
        root = cleanup.run(self.command("image", "mount", reference), timeout=60).stdout.strip()
        seconds += tools.monotonic() - before
        return base.Mounted(root, lower_of(root, self.directory("store") / "overlay"), seconds)

    def unmount(self):
        if self.scratch:
            for point in cleanup.mounts(str(self.scratch)):
                cleanup.unmount(point)


class Containerd(Pull):
    name = "containerd"
    about = "`ctr images pull` with unpacking by its own containerd (running), then its image mount"
    programs = ("containerd", "ctr")

    def __init__(self, work):
        super().__init__(work)
        self.daemon = None

    def version(self):
        return " ".join(cleanup.run(["containerd", "--version"]).stdout.split()[0:3:2])

    def start(self, limit):
        """Starts containerd without CRI; its socket's path is short, since socket paths are bounded."""
        directory, run = self.directory("containerd"), self.directory("r")
        configuration = directory / "config.toml"
        configuration.write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{run}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
            f'[grpc]\naddress = "{run}/c.sock"\n[ttrpc]\naddress = "{run}/t.sock"\n'
        )
        with open(directory / "log", "w") as log:
            self.daemon = cleanup.start(
                ["containerd", "--config", configuration, "--log-level", "warn"], stdout=log, stderr=log
            )
        deadline = tools.monotonic() + min(limit, 30)
        while cleanup.run(self.command("version"), check=False, timeout=20).returncode:
            if tools.monotonic() > deadline or self.daemon.poll() is not None:
                raise cleanup.Failed("containerd does not start: " + (directory / "log").read_text()[-300:])

    def hosts(self, origin):
        """A directory that makes ctr speak TLS with a loopback host, which it would take for a plain one."""
        directory = self.directory("hosts") / origin.host
        directory.mkdir(exist_ok=True)
        (directory / "hosts.toml").write_text(
            f'server = "https://{origin.host}"\n[host."https://{origin.host}"]\n'
            f'capabilities = ["pull", "resolve"]\nca = "{origin.ca_file}"\n'
        )
        return directory.parent

    def command(self, *words):
        return ["ctr", "-a", self.directory("r") / "c.sock", *words]

    def mount(self, image, origin, variant, limit, prefetch=False):
        self.start(limit)
        reference = f"{origin.host}/{image.reference_repo}:{image.variants[variant]}"
        trust = ["--plain-http"] if origin.plain_http else ["--hosts-dir", self.hosts(origin)]
        seconds = self.pull(
            self.command("images", "pull", *trust, reference),
            origin,
            limit,
            self.directory("containerd"),
            self.daemon.pid,
        )
        root = self.directory("rootfs")
        before = tools.monotonic()
        cleanup.run(self.command("images", "mount", reference, root), timeout=60)
        seconds += tools.monotonic() - before
        return base.Mounted(str(root), lower_of(str(root), root), seconds)

    def unmount(self):
        if self.scratch:
            for point in cleanup.mounts(str(self.scratch)):
                cleanup.unmount(point)
        if self.daemon:
            cleanup.stop(self.daemon)
            self.daemon = None


class CurlTar(Pull):
    name = "curl-tar"
    about = "`curl | tar -xz` of one layer after the other"
    programs = ("curl", "tar", "gzip", "bash")

    def version(self):
        return (
            " ".join(cleanup.run(["curl", "--version"]).stdout.split()[:2])
            + ", "
            + " ".join(cleanup.run(["tar", "--version"]).stdout.split("\n")[0].split())
        )

    def mount(self, image, origin, variant, limit, prefetch=False):
        tag = image.variants[variant]
        _, manifest = tools.stored_manifest(self.work, image.reference_repo, tag)
        scheme = "http" if origin.plain_http else "https"
        base_url = f"{scheme}://{origin.host}/v2/{image.reference_repo}"
        root = self.directory("rootfs")
        curl = "curl -sSfL" + (f" --cacert '{origin.ca_file}'" if origin.ca_file else "")
        script = "\n".join(
            [
                "set -euo pipefail",
                f"{curl} -H 'Accept: {manifest['mediaType']}' -o /dev/null '{base_url}/manifests/{tag}'",
                *(
                    f"{curl} '{base_url}/blobs/{layer['digest']}' | tar -xz -p --numeric-owner -C '{root}'"
                    for layer in manifest["layers"]
                ),
            ]
        )
        seconds = self.pull(["bash", "-c", script], origin, limit, root)
        return base.Mounted(str(root), [str(root)], seconds)


def lower_of(root, directory):
    """The lower directories of the overlay mounted at `root`, relative names being below `directory`."""
    with open("/proc/self/mountinfo") as table:
        for line in table:
            fields = line.split()
            if fields[4] == root and "overlay" in fields[fields.index("-") + 1]:
                for option in fields[-1].split(","):
                    key, _, value = option.partition("=")
                    if key == "lowerdir" and "\\" not in value:
                        return [str(pathlib.Path(directory) / name) for name in value.split(":")]
    return [root]


def _children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
