"""CRC-32C by NumPy: TensorBoard's own takes a second for 5 MB, in Python, beside the training.

The checksum of data without its first and last inversion is linear: that of a long text is found from those of its
parts, each moved on by the zeros that stand for what follows it.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

# Reflected, of Castagnoli.
_POLYNOMIAL = 0x82F63B78
_PART_BITS = 8


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of some bytes.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    if len(data) < 4096:
        return _slowly(data)
    values = np.frombuffer(data, np.uint8)
    part = 1 << _PART_BITS
    # Zeros in front change nothing where the checksum begins with zero, as it does once the first four bytes are
    # inverted.
    count = 1 << max(0, (-(-len(values) // part) - 1)).bit_length()
    padded = np.zeros(count * part, np.uint8)
    begin = len(padded) - len(values)
    padded[begin:] = values
    padded[begin : begin + 4] ^= 0xFF
    table, found = _table(), np.zeros(count, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(count, part).T):
        found = table[(found ^ column) & 0xFF] ^ (found >> 8)
    bits = _PART_BITS
    while len(found) > 1:
        found = _moved(_zeros(bits), found[::2]) ^ found[1::2]
        bits += 1
    return int(found[0]) ^ 0xFFFFFFFF


def quicken(file_writer: Any) -> None:
    """Lets an event file's writer find checksums with NumPy; the file's bytes are the same.

    Args:
        file_writer: As torch's ``SummaryWriter`` has it; one of another kind is left as it is.
    """
    try:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record: Any = file_writer.event_writer._async_writer._writer
    except (ImportError, AttributeError):
        return
    if type(record) is not RecordWriter or "write" in vars(record) or not hasattr(record, "_writer"):
        return

    def write(data: bytes) -> None:
        head = struct.pack("<Q", len(data))
        ends = [struct.pack("<I", _masked(crc32c(part))) for part in (head, data)]
        record._writer.write(head + ends[0] + data + ends[1])

    record.write = write


def _masked(checksum: int) -> int:
    # Of TensorFlow's records.
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _slowly(data: bytes) -> int:
    found, table = 0xFFFFFFFF, _table().tolist()
    for byte in data:
        found = table[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


@cache
def _table() -> Words:
    """What each value of the lowest byte adds to the rest."""
    found = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        found = np.where(found & 1, (found >> 1) ^ np.uint32(_POLYNOMIAL), found >> 1).astype(np.uint32)
    return found


@cache
def _zeros(bits: int) -> Words:
    """What ``2 ** bits`` zeros behind it make of a checksum, for each value of each of its four bytes, ``[4, 256]``."""
    single = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    if bits == 0:
        return np.asarray(_table()[single & 0xFF] ^ (single >> 8), np.uint32)
    half = _zeros(bits - 1)
    return _moved(half, half)


def _moved(zeros: Words, found: Words) -> Words:
    shares = [zeros[place][(found >> np.uint32(8 * place)) & 0xFF] for place in range(4)]
    return np.asarray(shares[0] ^ shares[1] ^ shares[2] ^ shares[3], np.uint32)
