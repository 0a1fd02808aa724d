"""Numbers that shapes follow from, rounded up so that few shapes occur."""

BUCKET = 256
"""Attention reads a prefix of the buffer whose length is a multiple of this, once it is as long."""
SMALLEST = 64
"""Shorter prefixes are powers of two, from this on."""

NARROWEST = 2048
"""Tables of tokens have so many columns, or four times as many, and so on: they cost little."""


def power_of_two(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def bucket_of(length: int) -> int:
    """Slots to attend over, or to have, for so many tokens."""
    if length > BUCKET:
        return -(-length // BUCKET) * BUCKET
    return min(BUCKET, max(SMALLEST, power_of_two(length)))


def width_of(length: int) -> int:
    """Columns of a table of so many tokens."""
    width = NARROWEST
    while width < length:
        width *= 4
    return width


def rows_of(count: int) -> int:
    """Rows of a batch for so many texts: a power of two, or three quarters of one."""
    power = power_of_two(count)
    return power * 3 // 4 if count <= power * 3 // 4 else power
