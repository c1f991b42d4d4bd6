"""Real Fourier transforms over time, for any float type, and with the same result on every device.

All frequencies are computed by an FFT, a few of them by products with matrices: a CPU does these
faster than an FFT from whose result it then takes a few frequencies.

Dimensions: B batch, L length, M kept frequencies.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def spectrum(x: Array) -> Array:
    """Frequencies 0 ... L // 2 of [B, L, ...] along axis 1, in at least 32-bit floats."""
    return jnp.fft.rfft(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=1)


def series(frequencies: Array, length: int) -> Array:
    """The real series [B, length, ...] with these frequencies [B, length // 2 + 1, ...].

    Of bin 0 and, for an even length, of bin length / 2 only the real parts count. Some
    implementations of the inverse transform drop their imaginary parts and some do not, so that
    they are dropped beforehand.
    """
    real_only = np.zeros(length // 2 + 1, np.bool_)
    real_only[0] = True
    real_only[-1] |= length % 2 == 0
    real_only = real_only.reshape(1, -1, *(1,) * (frequencies.ndim - 2))
    real = frequencies.real.astype(frequencies.dtype)
    return jnp.fft.irfft(jnp.where(real_only, real, frequencies), n=length, axis=1)


class Parts(NamedTuple):
    """A complex array as two real ones."""

    real: Array
    imag: Array

    def transpose(self, *axes: int) -> "Parts":
        """Both parts with their axes in this order."""
        return Parts(self.real.transpose(axes), self.imag.transpose(axes))


def parts_of(x: Array) -> Parts:
    """The parts of a complex array."""
    return Parts(x.real, x.imag)


@functools.cache
def fourier_tables(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of the real Fourier transform of ``length`` steps, and of its inverse, in float64.

    Returns:
      ``(analysis, synthesis)``, each [2, length // 2 + 1, length]: real and imaginary part,
      frequency, step. Rows of ``analysis`` times a series are its frequencies; the sum of all rows
      of ``synthesis`` times these is the series.
    """
    bins, steps = np.arange(length // 2 + 1), np.arange(length)
    angle = 2 * np.pi / length * (np.outer(bins, steps) % length)
    analysis = np.stack([np.cos(angle), -np.sin(angle)])
    # Frequencies that are their own conjugates count once, and have no imaginary part.
    real_only = 2 * bins % length == 0
    analysis[1, real_only] = 0
    return analysis, analysis * (np.where(real_only, 1, 2) / length)[:, None]


def _rows(table: np.ndarray, modes: Array, dtype: jnp.dtype) -> Array:
    return jnp.asarray(table, dtype).at[modes].get(mode="fill", fill_value=0)


def _product(rows: Array, x: Array) -> Array:
    # As precise on every device as an FFT is.
    return jnp.tensordot(rows, x, 1, precision=lax.Precision.HIGHEST)


def spectrum_at(x: Array, modes: Array) -> Parts:
    """Frequencies ``modes`` of [B, L, ...], in at least 32-bit floats: [M, B, ...].

    They are zero where the series is too short to have them.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Steps go in front, here and in the inverse: a CPU then makes fewer transposed copies.
    x = jnp.swapaxes(x, 0, 1)
    tables, _ = fourier_tables(x.shape[0])
    return Parts(*(_product(_rows(table, modes, x.dtype), x) for table in tables))


def series_of(frequencies: Parts, modes: Array, length: int) -> Array:
    """The real series [B, length, ...] whose frequencies ``modes`` are [M, B, ...].

    The others are zero, and those that the series does not have are left out.
    """
    _, batch, *rest = frequencies.real.shape
    if not modes.size:
        # Sums over nothing would be zero as well, but look as if they depended on what is summed.
        return jnp.zeros((batch, length, *rest), frequencies.real.dtype)
    _, tables = fourier_tables(length)
    real, imag = (
        _product(_rows(table, modes, part.dtype).T, part)
        for table, part in zip(tables, frequencies, strict=True)
    )
    return jnp.swapaxes(real + imag, 0, 1)
