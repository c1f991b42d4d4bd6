"""The marks that the data has are those that the models expect."""

import pandas as pd
import pytest

from tsjax import data
from tsjax.models.layers import LOOK_UPS, MARKS, mark_dim

DATES = pd.date_range("2019-12-31 21:07", periods=9, freq="53h")


@pytest.mark.parametrize("freq", MARKS)
def test_marks_have_the_width_that_models_expect(freq):
    assert set(data.FREQUENCIES) == set(MARKS)
    assert data.time_features(DATES, freq).shape[1] == mark_dim("timeF", freq)
    fields = data.time_fields(DATES, freq)
    assert fields.shape[1] == mark_dim("fixed", freq)
    for column, rows in zip(fields.T, LOOK_UPS.values(), strict=False):
        assert 0 <= column.min() <= column.max() < rows
