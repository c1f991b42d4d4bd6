"""The list of planted faults fits the code; trying them takes planted_faults.py, and longer."""

import re
from collections import Counter
from pathlib import Path

import pytest
from planted_faults import FAULTS, ROOT, Fault, plant

ROOMS = (
    "tsjax/data", "tsjax/pruning", "tsjax/structure", "tsjax/costs", "tsjax/models",
    "tsjax/training", "tsjax/interop", "tsjax/study", "tsjax/benchmark", "tsjax/report",
    "experiments", "launch.sh",
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.file)
def test_a_fault_can_be_planted(fault, tmp_path):
    target = tmp_path / fault.file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text((ROOT / fault.file).read_text())
    plant(fault, tmp_path)
    assert target.read_text() != (ROOT / fault.file).read_text()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.file)
def test_the_tests_of_a_fault_exist(fault):
    assert fault.tests
    for test in fault.tests.split():
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), test


def test_faults_are_in_all_rooms():
    found = Counter(room for fault in FAULTS for room in ROOMS if fault.file.startswith(room))
    assert set(found) == set(ROOMS)
    assert len(FAULTS) >= 30


def test_a_text_that_is_not_there_once_is_refused(tmp_path):
    (tmp_path / "module.py").write_text("x = 1\ny = 1\n")
    with pytest.raises(ValueError, match=re.escape("module.py: 2 times '= 1', expected 1")):
        plant(Fault("module.py", "= 1", "= 2", "tests"), Path(tmp_path))
