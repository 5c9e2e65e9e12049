"""The requests of members at the store, in walks over tasks."""

import time
from typing import Final

from taskfs.demo.endpoint import RequestRecord
from tests.fake_api import FakeCloud
from tests.mounts import eventually

# A walk has members prefetched from this task on, counted from 1.
FIRST_AHEAD: Final = 6
# So many are prefetched at once, at least.
AT_ONCE: Final = 4
# Seconds for which a request of a prefetched member waits for the others. A busy machine may take
# longer, and the next task has the same chance.
HOLD_S: Final = 1.0


def member_requests(cloud: FakeCloud) -> list[RequestRecord]:
    """Return the requests of members, without those of the archives' ends."""
    return [record for record in list(cloud.requests) if _is_member(record)]


def settle(cloud: FakeCloud) -> None:
    """Wait until no request is in flight, and none follows."""
    count = -1
    while count != len(cloud.requests):
        count = len(cloud.requests)
        time.sleep(0.15)
        eventually(lambda: all(record.status for record in list(cloud.requests)))


class Ranges:
    """The requests of members; tails of archives are not counted. Each response takes 50 ms.

    *peak* is the most that were in flight at once. Until it is AT_ONCE, requests of prefetched
    members are held, so it does not depend on the machine's speed.
    """

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud
        self.peak = 0
        cloud.clear_requests()
        cloud.faults.add("stall", side="store", times=None, seconds=HOLD_S, match=self._is_held)
        cloud.faults.add("stall", side="store", times=None, seconds=0.05)

    def _is_held(self, record: RequestRecord) -> bool:
        if not _is_member(record) or self.peak >= AT_ONCE:
            return False
        records = self.records()
        self.peak = max(self.peak, sum(not each.status for each in records))
        if self.peak >= AT_ONCE:
            self._cloud.faults.release()
            return False
        return len({each.path for each in records}) >= FIRST_AHEAD

    def records(self) -> list[RequestRecord]:
        return member_requests(self._cloud)

    def bytes(self) -> int:
        return sum(record.bytes_sent for record in self.records())

    def cost(self) -> tuple[int, int]:
        """Return the number of requests and their bytes, once none is in flight."""
        self.settle()
        return len(self.records()), self.bytes()

    def settle(self) -> None:
        settle(self._cloud)


def _is_member(record: RequestRecord) -> bool:
    return record.side == "store" and not str(record.range).startswith("bytes=-")
