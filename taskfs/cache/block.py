"""`BLOCK`: the unit in which remote objects are fetched and cached."""

from typing import Final

# Bytes. A longer block would waste more of a short random read; a shorter one costs more entries in
# every table. The blocks in existing cache directories have this length.
BLOCK: Final = 64 << 10
