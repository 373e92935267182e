"""Everything that is compared; see base.py for the interface."""

from compare.contenders.bounds import Erofs, Squashfuse, Tree
from compare.contenders.crfs import Crfs, CrfsBackground
from compare.contenders.pulls import Containerd, CurlTar, Podman
from compare.contenders.stargz import Stargz, StargzBackground, StargzLargeChunks

# In the order of the report's rows.
ALL = (
    Crfs,
    CrfsBackground,
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
