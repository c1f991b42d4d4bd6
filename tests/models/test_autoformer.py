"""Autoformer's correlations are those of their definition."""

import jax
import numpy as np
import pytest

from tsjax.models.autoformer import correlations


@pytest.mark.parametrize(("length", "steps"), [(1, 1), (2, 1), (6, 6), (7, 7), (9, 4), (144, 96)])
def test_correlations_are_those_of_fourier_transforms(length, steps):
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(2, n, 3, 4)) for n in (length, steps))
    padded = np.pad(k, ((0, 0), (0, length - steps), (0, 0), (0, 0)))
    power = np.fft.rfft(q, axis=1) * np.conj(np.fft.rfft(padded, axis=1))
    want = np.fft.irfft(power, n=length, axis=1).sum(axis=(2, 3))
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(correlations)(q, k), want, atol=1e-10)


def test_correlations_of_short_floats_are_not_short():
    q = np.ones((1, 300, 1, 1), "float16")
    got = jax.jit(correlations)(q, q)
    assert got.dtype == np.float32
    assert np.all(np.asarray(got) == 300)
