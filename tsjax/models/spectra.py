"""Real Fourier transforms over time that any float type can enter, and every device agrees on."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def spectrum(x: Array) -> Array:
    """Frequencies 0 ... L // 2 of [B, L, ...] along axis 1, in at least 32-bit floats."""
    return jnp.fft.rfft(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=1)


def series(frequencies: Array, length: int) -> Array:
    """The real series [B, length, ...] with these frequencies [B, length // 2 + 1, ...].

    Bins 0 and, for an even length, length / 2 count with their real parts only. Implementations
    differ in whether they see to that themselves.
    """
    real_only = np.zeros(length // 2 + 1, np.bool_)
    real_only[0] = True
    real_only[-1] |= length % 2 == 0
    real_only = real_only.reshape(1, -1, *(1,) * (frequencies.ndim - 2))
    real = frequencies.real.astype(frequencies.dtype)
    return jnp.fft.irfft(jnp.where(real_only, real, frequencies), n=length, axis=1)
