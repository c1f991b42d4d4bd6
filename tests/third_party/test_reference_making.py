"""The reference cases are what the PyTorch models compute today."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch side needs torch")

from reference.cases import CASES, Reference  # noqa: E402
from reference.make import arrays_of  # noqa: E402


@pytest.mark.parametrize("name", CASES)
def test_making_a_case_gives_what_is_stored(name):
    case = Reference(name)
    made = arrays_of(case)
    assert made.keys() == case.arrays.keys()
    for key, array in made.items():
        stored = case.arrays[key]
        # What was computed differs by rounding between machines; what was drawn does not.
        exact = key.startswith(("param/", "in/", "rand/")) and not key.endswith(".pe")
        bound = 0.0 if exact else 1e-12 * np.max(np.abs(stored), initial=0.0) + 1e-15
        np.testing.assert_allclose(array, stored, rtol=0, atol=bound, err_msg=key)


def test_every_file_is_a_case():
    stored = {path.stem for path in Reference("transformer").path.parent.glob("*.safetensors")}
    assert stored == set(CASES)
