"""Everything that is compared; see base.py for the interface."""

from compare.contenders.bounds import Erofs, Squashfuse, Tree
from compare.contenders.crfs import Crfs, CrfsBackground, CrfsImage, CrfsOpenDaemon, CrfsOpenNone
from compare.contenders.pulls import Containerd, CurlTar, Podman
from compare.contenders.stargz import Stargz, StargzBackground, StargzLargeChunks

# In the order of the report's rows.
ALL = (
    Crfs,
    CrfsBackground,
    CrfsOpenNone,
    CrfsOpenDaemon,
    CrfsImage,
    Stargz,
    StargzBackground,
    StargzLargeChunks,
    Podman,
    Containerd,
    CurlTar,
    Tree,
    Erofs,
    Squashfuse,
)
