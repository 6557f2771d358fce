from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from phalanx.contract.text import Output
from phalanx.contract.vector import Vector
from phalanx.engines.text.vectors import finish, unit

RAW = np.array([3, -4, 0, 0.5, -0.5, 1e-3, 2, -2, 7, -7], dtype=np.float32)
VECTORS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32))


@given(VECTORS)
def test_a_unit_vector_has_length_one_and_the_same_direction(raw: Vector) -> None:
    found = unit(raw)
    norm = float(np.linalg.norm(raw.astype(np.float64)))
    if norm < 1e-6:
        return
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found * norm, raw, atol=norm * 1e-5)


def test_a_zero_vector_stays_zero() -> None:
    assert not finish(np.zeros(8, dtype=np.float32), normalize=True, dimensions=None, output="float").any()


def test_without_options_the_raw_vector_comes_back() -> None:
    np.testing.assert_array_equal(finish(RAW, normalize=False, dimensions=None, output="float"), RAW)


def test_the_length_is_made_one_after_the_cut() -> None:
    found = finish(RAW, normalize=True, dimensions=2, output="float")
    np.testing.assert_allclose(found, [0.6, -0.8], rtol=1e-6)


def test_a_raw_vector_is_only_cut() -> None:
    np.testing.assert_array_equal(finish(RAW, normalize=False, dimensions=3, output="float"), RAW[:3])


def test_base64_is_little_endian_float32() -> None:
    found = finish(RAW, normalize=True, dimensions=4, output="base64")
    assert isinstance(found, str)
    expected = finish(RAW, normalize=True, dimensions=4, output="float")
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(found), dtype="<f4"), expected)


@given(VECTORS)
def test_int8_is_within_half_a_step_of_the_unit_vector(raw: Vector) -> None:
    found = finish(raw, normalize=False, dimensions=None, output="int8")
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int8
    np.testing.assert_allclose(found / 127, unit(raw), atol=0.5 / 127 + 1e-6)


@given(VECTORS)
def test_uint8_is_int8_shifted(raw: Vector) -> None:
    signed = finish(raw, normalize=True, dimensions=None, output="int8")
    found = finish(raw, normalize=True, dimensions=None, output="uint8")
    assert isinstance(signed, np.ndarray)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.astype(int) - 128, signed)


def test_bits_are_signs_the_first_one_highest() -> None:
    found = finish(RAW, normalize=True, dimensions=None, output="ubinary")
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    assert found.tolist() == [0b10010110, 0b10000000]


def test_binary_is_ubinary_minus_128() -> None:
    found = finish(RAW, normalize=True, dimensions=8, output="binary")
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int8
    assert found.tolist() == [0b10010110 - 128]


@pytest.mark.parametrize("output", ["float", "base64", "int8", "uint8", "binary", "ubinary"])
def test_the_raw_vector_is_never_changed(output: Output) -> None:
    raw = RAW.copy()
    raw.flags.writeable = False
    finish(raw, normalize=True, dimensions=5, output=output)
    np.testing.assert_array_equal(raw, RAW)
