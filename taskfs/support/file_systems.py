"""Tells network file systems from local ones."""

import os
from pathlib import Path
from typing import Final

# The types of /proc/self/mountinfo on which several machines may open one file.
NETWORK_TYPES: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"),
        *("gpfs", "beegfs", "orangefs", "ocfs2", "gfs2", "pvfs2", "fuse.sshfs", "fuse.glusterfs"),
        *("fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone", "virtiofs"),
    }
)


def is_network_directory(directory: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether *directory* lies on a network file system; False where that is unknown."""
    try:
        device = os.stat(directory).st_dev
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[2:3] == [number] and rest.split(" ")[0] in NETWORK_TYPES:
            return True
    return False
