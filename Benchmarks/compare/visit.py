"""A visit: one mount (or a row of them) of one image by one contender, from which scenarios take figures."""

import dataclasses
import statistics

from compare import cleanup, tools
from compare.scenarios import SCENARIOS

# A step that is shorter than this many seconds is done that many times, and the median counts.
STEADY = ((0.5, 5), (2.0, 3))


@dataclasses.dataclass
class Visit:
    """What a visit works with. `wanted` are the names of its scenarios that are asked for."""

    work: object
    contender: object
    image: object
    origin: object  # None for local bounds
    wanted: set
    deadline: float
    fio_seconds: int = 5
    jobs: int = 50
    results: dict = dataclasses.field(default_factory=dict)
    mark: object = None
    variant: str = "estargz"
    prefetch: bool = False
    mounted: object = None

    def left(self):
        """Seconds until the time limit; raises Failed when it is over."""
        left = self.deadline - tools.monotonic()
        if left <= 0:
            raise cleanup.Failed("the time limit of the cell is over")
        return left

    def start_from_nothing(self, variant=None, prefetch=False, prepare=None):
        """Brings about the state `nothing` and mounts; returns the Mounted.

        `prepare` is called between: what it leaves in the contender's cache was there before.
        """
        self.variant, self.prefetch = variant or self.contender.variant, prefetch
        self.contender.forget()
        if prepare:
            prepare()
        self.start_clean()
        return self.mount()

    def start_clean(self):
        """Drops the kernel's caches, then takes the origin's files into memory again."""
        if path := self.contender.local_files(self.image):
            tools.keep_in_use(path)
        tools.drop_caches()
        if self.origin:
            layers = tools.stored_layers(
                self.work, self.image.reference_repo, self.image.variants[self.variant]
            )
            tools.warm_blobs(self.work, [layer["digest"] for layer in layers])
            self.mark = self.origin.start_count()

    def mount(self):
        self.mounted = self.contender.mount(
            self.image, self.origin, self.variant, self.left(), self.prefetch
        )
        return self.mounted

    def remount(self):
        """Unmounts and mounts again with what is on disk; what stays mounted in use is left as it is."""
        if not self.contender.keeps_mount:
            self.contender.unmount()
            self.mount()
        return self.mounted

    def drop(self):
        """The kernel's caches dropped, while the image is mounted; returns the Mounted.

        The kernel keeps pages that a process maps. A contender that maps its cache is therefore mounted anew.
        """
        if self.contender.maps_cache:
            self.contender.unmount()
            tools.drop_caches()
            return self.mount()
        tools.drop_caches()
        return self.mounted

    def note(self, name, value, **more):
        """Records a figure and the memory so far; from nothing also what was used and fetched since the mount."""
        if name not in self.wanted:
            return
        result = {"value": value, "peak_memory": self.contender.peak_memory(), **more}
        if SCENARIOS[name].state == "nothing":
            cost = self.contender.cost()
            result.update(cpu_seconds=cost.cpu_seconds, disk_bytes=cost.disk_bytes)
            if self.origin:
                result["requests"], result["bytes"] = self.origin.counts(self.mark)
        self.results[name] = {key: number for key, number in result.items() if number is not None}

    def wants(self, *names):
        return any(name in self.wanted for name in names)

    def steadily(self, step, prepare=None):
        """Does a step that returns seconds, `prepare` before each time; the median of as many as STEADY says."""
        times = []
        while True:
            if prepare:
                prepare()
            times.append(step())
            wanted = next((count for seconds, count in STEADY if times[0] < seconds), 1)
            if len(times) >= wanted:
                return statistics.median(times)

    def probe(self, *words, **options):
        """Runs the probe; returns the numbers that it prints."""
        output = cleanup.run([self.work / "bin/probe", *words], timeout=self.left(), **options).stdout
        return [int(word) for word in output.split()]
