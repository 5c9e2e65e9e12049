"""The bounds of prefetch and of decoding ahead, for one member and for the order of members."""

from typing import Final

from taskfs.cache.block import BLOCK

# --- One member, in decoded bytes. A span is the unit of decoding.
SPAN: Final = 128 << 10
# Decoded bytes between two checkpoints on disk: some 10 ms of decoding, and 15 KB of the cache.
# Each is computed as well as written, so more of them would slow `cat` (docs/performance.md).
STRETCH: Final = 64 * SPAN
# Spans. The kernel sends the reads of one sequential program out of order, a few spans at most.
DISORDER_SPANS: Final = 8
# Reads without a jump after which a member counts as read in order.
STREAK_READS: Final = 2
# Decode ahead twice what was read since the last jump, between these bounds.
MIN_AHEAD_SPANS: Final = 8
MAX_AHEAD_SPANS: Final = 64
# Bytes. The kernel's first request is this long if the program reads 36 KiB or more at once, else
# shorter.
LONG_FIRST_READ: Final = 128 << 10
# Decode up to this many spans in one call: most are pushed into the kernel's pages.
MAX_STEP_SPANS: Final = 16
# Bytes that all members together are decoded ahead: about half of the spans' memory.
DECODE_AHEAD_BYTES: Final = 8 << 20

# --- One member, in compressed bytes.
# A long first read (`read_pattern`) fetches a member of up to this size whole, in one request with
# its local header.
WHOLE_MEMBER: Final = 16 * BLOCK
# A long first read fetches this much of a longer member.
FIRST_FETCH_BYTES: Final = 4 * BLOCK
# The compressed bytes reach the decoder in pieces that double up to this size.
MAX_PIECE: Final = 16 * BLOCK

# --- Members that are read to their ends, one after another (`cp -r`, `grep -r`).
# Bytes that all archives together fetch ahead of the members being read.
SEQUENTIAL_FILES_BYTES: Final = 12 << 20
# Fetch ahead this many times the bytes of the sequence so far.
SEQUENTIAL_FILES_GROWTH: Final = 4
# After this many members in turn, a sequence counts as one from the last to the first. There are
# fewer readers of a forward sequence, which may finish in any order.
BACKWARD_MEMBERS: Final = 16
# Members read lately: a member that is read again does not advance the sequence.
RECENT_MEMBERS: Final = 64
# Bytes. The members that other readers have open count as fetched, up to this size in all. A member
# that begins beyond them and beyond what was fetched ahead is a jump.
MAX_OPEN_BYTES: Final = 8 << 20
# One small member in this many is not pushed on open: if the kernel does not ask for its bytes,
# programs only open the files.
SAMPLE_EVERY: Final = 16

# --- Members of which only the head is read (file(1), a file manager).
# Bytes. A handle whose reads ended within these, one request of the kernel, has read the head only.
HEAD_READ: Final = 128 << 10
# Compressed bytes of a head with its local header; mostly enough.
HEAD_BYTES: Final = 8 << 10
# Heads that are fetched at once.
HEADS_AHEAD: Final = 16
