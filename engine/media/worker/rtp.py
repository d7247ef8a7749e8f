"""RTP headers by column (RFC 3550 §5.1): a batch of packets is a matrix, a header field is one column of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.media.protocol import FRAME_SAMPLES

HEADER_OCTETS = 12
RTCP_KINDS = 0xC0  # 192 to 223 in the second octet, under the mask 0xE0: RTCP on the RTP port (RFC 5761 §4)
VERSION_2 = 0x80  # first octet of a packet without padding, extension or contributing sources
MARKER = 0x80

HEADER = np.dtype(
    [("first", "u1"), ("second", "u1"), ("sequence", ">u2"), ("timestamp", ">u4"), ("ssrc", ">u4")]
)
# One outgoing 20 ms G.711 packet; a row of the transmit matrix is exactly what goes to `send`.
FRAME = np.dtype([*((name, HEADER[name]) for name in HEADER.names or ()), ("payload", "u1", FRAME_SAMPLES)])


def headers(rows: NDArray[np.uint8]) -> NDArray[np.void]:
    """Fixed headers of received packets: (n, ≥12) octets in, (n,) of `HEADER` out."""
    return np.ascontiguousarray(rows[:, :HEADER_OCTETS]).view(HEADER)[:, 0]


def plausible(packet: memoryview) -> bool:
    """Whether an octet string may be RTP at all: version 2, a whole header, and not RTCP (RFC 5761 §4)."""
    return len(packet) >= HEADER_OCTETS and packet[0] >> 6 == 2 and packet[1] & 0xE0 != RTCP_KINDS


def strip(packet: bytes) -> bytes | None:
    """A packet with CSRCs, extension or padding rewritten to fixed header + payload; None when it is malformed."""
    start = HEADER_OCTETS + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        if len(packet) < start + 4:
            return None
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
    end = len(packet)
    if packet[0] & 0x20:
        end -= packet[-1]
    if start > end:
        return None
    return bytes([VERSION_2]) + packet[1:HEADER_OCTETS] + packet[start:end]


def single(
    payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int, payload: bytes
) -> bytes:
    """One packet by itself, for the rare ones (telephone events)."""
    return (
        bytes([VERSION_2, payload_type | (MARKER if marker else 0)])
        + (sequence & 0xFFFF).to_bytes(2, "big")
        + (timestamp & 0xFFFFFFFF).to_bytes(4, "big")
        + ssrc.to_bytes(4, "big")
        + payload
    )
