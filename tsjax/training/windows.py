"""Batches gathered on the device: a series is one array, a window one start row."""

import dataclasses
import functools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Batch(NamedTuple):
    """Model inputs and target of B windows.

    Attributes:
      x_enc: look-back [B, seq_len, C].
      x_mark_enc: its marks [B, seq_len, F].
      x_dec: the look-back's last label_len steps, then zeros [B, label_len + pred_len, C].
      x_mark_dec: marks of these steps and of the horizon [B, label_len + pred_len, F].
      target: what is to be forecast [B, pred_len, C].
    """

    x_enc: Array
    x_mark_enc: Array
    x_dec: Array
    x_mark_dec: Array
    target: Array

    @property
    def inputs(self) -> tuple[Array, Array, Array, Array]:
        """What a model is called with."""
        return self.x_enc, self.x_mark_enc, self.x_dec, self.x_mark_dec


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "marks"],
    meta_fields=["seq_len", "label_len", "pred_len"],
)
@dataclasses.dataclass(frozen=True)
class Windows:
    """A scaled series on the device, and the lengths of the windows cut from it.

    Attributes:
      values: [T, C].
      marks: time marks [T, F].
      seq_len: look-back steps.
      label_len: steps of the look-back that the decoder also sees.
      pred_len: steps to forecast.

    Raises:
      ValueError: if the lengths make no window.
    """

    values: Array
    marks: Array
    seq_len: int
    label_len: int
    pred_len: int

    def __post_init__(self) -> None:
        if self.seq_len < 1 or self.pred_len < 1 or not 0 <= self.label_len <= self.seq_len:
            raise ValueError(
                "need seq_len >= 1, pred_len >= 1 and 0 <= label_len <= seq_len, got "
                f"{self.seq_len}, {self.pred_len} and {self.label_len}"
            )

    @classmethod
    def of(cls, dataset: Any) -> Self:
        """The windows of a :class:`tsjax.data.Dataset`, or of anything with the same attributes."""
        lengths = (dataset.seq_len, dataset.label_len, dataset.pred_len)
        return cls(jnp.asarray(dataset.values), jnp.asarray(dataset.marks), *lengths)

    def check(self, starts: Any, name: str = "starts") -> np.ndarray:
        """The starts as int32 rows [N], once each is known to begin a window of the series.

        Args:
          starts: first rows of windows, whole numbers [N] on the host.
          name: what the message calls them.

        Raises:
          ValueError: if they are no whole numbers in one axis, or if a window does not lie within
            the series.
        """
        rows = np.asarray(starts)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(
                f"{name} must be whole numbers [N], the first rows of windows; "
                f"got {rows.dtype} of shape {rows.shape}"
            )
        last = len(self.values) - self.seq_len - self.pred_len
        (outside,) = np.nonzero((rows < 0) | (rows > last))
        if len(outside):
            raise ValueError(
                f"{name}: {len(outside)} of {len(rows)} windows do not lie within the series, the "
                f"first of them at {rows[outside[0]]}: with {len(self.values)} rows, seq_len "
                f"{self.seq_len} and pred_len {self.pred_len}, "
                + (f"windows begin at rows 0 to {last}" if last >= 0 else "there is no window")
            )
        return rows.astype(np.int32)

    def gather(self, starts: Array) -> Batch:
        """The windows whose look-backs begin at rows ``starts`` [B]; works inside jit.

        There the starts are traced and cannot be checked: for a window that does not lie within the
        series, JAX reads other rows in place of those that are missing. :meth:`check` checks starts
        on the host.
        """
        encoder = starts[:, None] + jnp.arange(self.seq_len)[None]
        decoder_start = self.seq_len - self.label_len
        decoder = starts[:, None] + jnp.arange(decoder_start, self.seq_len + self.pred_len)[None]
        seen, target = jnp.split(self.values[decoder], [self.label_len], axis=1)
        x_dec = jnp.concatenate([seen, jnp.zeros_like(target)], axis=1)
        return Batch(self.values[encoder], self.marks[encoder], x_dec, self.marks[decoder], target)
