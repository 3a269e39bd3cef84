"""Which keys a ledger may hold: most that are asked for are new, and that is known at once."""

import mmap

#: Bits of the filter, 2 MB. With 1,000,000 keys it takes 1 new key in 200 for one it may have seen.
BITS = 1 << 24
#: Bits that stand for a key, and how far apart the parts of its hash are that they come from.
_PROBES, _STEP = 3, 20


class Seen:
    """A Bloom filter: what it has not seen is new; what it may have seen must be looked up."""

    def __init__(self) -> None:
        # Memory that is taken only where it is written to, which a bytearray's is not.
        self._bits = mmap.mmap(-1, BITS // 8, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def add(self, key: str) -> None:
        bits, rest = self._bits, hash(key)
        for _ in range(_PROBES):
            at = rest % BITS
            bits[at >> 3] |= 1 << (at & 7)
            rest >>= _STEP

    def __contains__(self, key: str) -> bool:
        bits, rest = self._bits, hash(key)
        for _ in range(_PROBES):
            at = rest % BITS
            if not bits[at >> 3] & 1 << (at & 7):
                return False
            rest >>= _STEP
        return True
