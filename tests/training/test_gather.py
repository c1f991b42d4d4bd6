"""Windows gathered on the device, against plain numpy slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax.training import Windows

T, C, F = 20, 3, 2
VALUES = np.arange(T * C, dtype=np.float32).reshape(T, C) + 1
MARKS = -np.arange(T * F, dtype=np.float32).reshape(T, F) - 1


def sliced(start, seq_len, label_len, pred_len):
    """One window by hand, in the order of the batch's fields."""
    end = start + seq_len
    decoder = slice(end - label_len, end + pred_len)
    x_dec = VALUES[decoder].copy()
    x_dec[label_len:] = 0
    return VALUES[start:end], MARKS[start:end], x_dec, MARKS[decoder], VALUES[end : end + pred_len]


@pytest.mark.parametrize(
    ("seq_len", "label_len", "pred_len", "jit"),
    [
        (6, 3, 4, False),
        (6, 3, 4, True),
        (6, 0, 4, True),
        (6, 6, 4, True),
        (1, 1, 1, True),
        (12, 5, 8, True),
    ],
)
def test_windows_are_slices_of_the_series(seq_len, label_len, pred_len, jit):
    windows = Windows(jnp.asarray(VALUES), jnp.asarray(MARKS), seq_len, label_len, pred_len)
    last = T - seq_len - pred_len
    starts = np.asarray([last, 0, last // 2, 0])
    gather = jax.jit(lambda windows, starts: windows.gather(starts)) if jit else Windows.gather
    batch = gather(windows, jnp.asarray(starts))
    by_hand = zip(*(sliced(start, seq_len, label_len, pred_len) for start in starts), strict=True)
    for name, got, expected in zip(batch._fields, batch, by_hand, strict=True):
        np.testing.assert_array_equal(got, np.stack(expected), err_msg=name)


def test_the_inputs_hold_nothing_of_the_target():
    windows = Windows(jnp.asarray(VALUES), jnp.asarray(MARKS), 6, 3, 4)

    @jax.jit
    def inputs(values):
        return Windows(values, windows.marks, 6, 3, 4).gather(jnp.asarray([2])).inputs

    changed = windows.values.at[8:].set(99)
    for before, after in zip(inputs(windows.values), inputs(changed), strict=True):
        np.testing.assert_array_equal(before, after)


def test_lengths_are_static_and_arrays_are_not():
    windows = Windows(jnp.asarray(VALUES), jnp.asarray(MARKS), 6, 3, 4)
    assert len(jax.tree.leaves(windows)) == 2
    other = Windows(windows.values, windows.marks, 6, 2, 4)
    assert jax.tree.structure(windows) != jax.tree.structure(other)


def test_lengths_that_make_no_window_are_refused():
    with pytest.raises(ValueError, match="0 <= label_len <= seq_len, got 4, 2 and 5"):
        Windows(jnp.zeros((9, 1)), jnp.zeros((9, 1)), seq_len=4, label_len=5, pred_len=2)


def test_starts_are_checked_on_the_host():
    windows = Windows(jnp.asarray(VALUES), jnp.asarray(MARKS), 6, 3, 4)
    rows = windows.check([0, 10, 3])
    assert rows.dtype == np.int32
    assert rows.tolist() == [0, 10, 3]
    assert windows.check([]).tolist() == []
    with pytest.raises(ValueError, match=r"^mine: 1 of 2 windows .* at 11: .* rows 0 to 10$"):
        windows.check([10, 11], "mine")
    with pytest.raises(ValueError, match=r"got bool of shape \(20,\)"):
        windows.check(VALUES[:, 0] > 3)
    with pytest.raises(ValueError, match=r"20 rows, seq_len 18 and pred_len 4, there is no window"):
        Windows(windows.values, windows.marks, 18, 3, 4).check([0])
