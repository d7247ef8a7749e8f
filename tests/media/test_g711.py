"""G.711 against the standard's own tables of decision and quantization values, built here from its segments."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.media.worker import g711

ALL_PCM = np.arange(-32768, 32768).astype(np.int16)
ALL_OCTETS = np.arange(256, dtype=np.uint8)


def mu_law_levels() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Table 2a/G.711: decision values x_1..x_128 and quantization values y_0..y_127, times 4 (14 to 16 bits)."""
    steps = [2] * 15 + [2 << segment for segment in range(1, 8) for _ in range(16)]
    decisions = np.cumsum([1, *steps])
    values = np.concatenate([[0], (decisions[:-1] + decisions[1:]) // 2])
    return 4 * decisions.astype(np.int32), 4 * values.astype(np.int32)


def a_law_levels() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Table 1a/G.711: decision values x_1..x_128 and quantization values y_1..y_128, times 8 (13 to 16 bits)."""
    steps = [2] * 32 + [2 << segment for segment in range(1, 7) for _ in range(16)]
    decisions = np.cumsum([0, *steps])
    values = (decisions[:-1] + decisions[1:]) // 2
    return 8 * decisions[1:].astype(np.int32), 8 * values.astype(np.int32)


LEVELS = {g711.MU_LAW: mu_law_levels(), g711.A_LAW: a_law_levels()}
LAWS = pytest.mark.parametrize("law", [g711.MU_LAW, g711.A_LAW])


def test_levels_are_those_printed_in_the_standard() -> None:
    decisions, values = LEVELS[g711.MU_LAW]
    assert (decisions[15::16] // 4).tolist() == [31, 95, 223, 479, 991, 2015, 4063, 8159]
    assert (values[[0, 1, 127]] // 4).tolist() == [0, 2, 8031]
    decisions, values = LEVELS[g711.A_LAW]
    assert (decisions[31::16] // 8).tolist() == [64, 128, 256, 512, 1024, 2048, 4096]
    assert (values[[0, 1, 127]] // 8).tolist() == [1, 3, 4032]


def interval(octets: NDArray[np.uint8], law: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Sign (True is positive) and interval number of character signals: all 1s is 0 in mu-law; A-law's even
    bits are inverted."""
    plain = octets ^ (0x55 if law == g711.A_LAW else 0x7F)
    return (plain & 0x80) != 0, (plain & 0x7F).astype(np.int64)


@LAWS
def test_decode_gives_the_quantization_values(law: int) -> None:
    positive, number = interval(ALL_OCTETS, law)
    expected = LEVELS[law][1][number] * np.where(positive, 1, -1)
    assert np.array_equal(g711.decode(ALL_OCTETS, law), expected)


@LAWS
def test_encode_finds_the_interval_of_every_sample(law: int) -> None:
    positive, number = interval(g711.encode(ALL_PCM, law), law)
    assert np.array_equal(positive, ALL_PCM >= 0)
    wide = ALL_PCM.astype(np.int32)
    # A value on a decision level goes up; the negative A-law half counts from -1, as its zero is positive.
    magnitude = np.where(wide >= 0, wide, ~wide if law == g711.A_LAW else -wide)
    expected = np.minimum(np.searchsorted(LEVELS[law][0], magnitude, side="right"), 127)
    assert np.array_equal(number, expected)


@LAWS
def test_octets_survive_a_round_trip(law: int) -> None:
    octets = g711.encode(g711.decode(ALL_OCTETS, law), law)
    kept = ALL_OCTETS[(ALL_OCTETS != 0x7F) | (law == g711.A_LAW)]  # mu-law has two zeros; PCM has one
    assert np.array_equal(octets[kept], kept)


@LAWS
def test_encoding_picks_the_nearest_value(law: int) -> None:
    error = np.abs(g711.decode(g711.encode(ALL_PCM, law), law).astype(int) - ALL_PCM)
    nearest = np.abs(ALL_PCM[:, None].astype(np.int32) - np.unique(g711.decode(ALL_OCTETS, law))).min(axis=1)
    # Only above and below the boundary between two segments the interval's own value may not be the nearest.
    assert (error > nearest).mean() < 0.04
    assert np.all(error <= np.maximum(np.abs(ALL_PCM.astype(int)) / 16, 16))


@LAWS
def test_silence_is_the_smallest_amplitude(law: int) -> None:
    assert g711.encode(np.zeros(1, np.int16), law)[0] == g711.SILENCE[law]
    assert abs(int(g711.decode(g711.SILENCE[[law]], law)[0])) == (8 if law == g711.A_LAW else 0)


def test_tables_convert_a_matrix_of_mixed_laws() -> None:
    laws = np.array([g711.A_LAW, g711.MU_LAW])
    pcm = np.array([[1000, -1000], [1000, -1000]], np.int16)
    octets = g711.ENCODE[laws[:, None], pcm.view(np.uint16)]
    assert np.array_equal(g711.decode_rows(octets, laws.astype(np.uint8)), g711.DECODE[laws[:, None], octets])
    assert octets.tolist() == [
        g711.encode(pcm[0], g711.A_LAW).tolist(),
        g711.encode(pcm[1], g711.MU_LAW).tolist(),
    ]
    assert octets[0].tolist() != octets[1].tolist()
