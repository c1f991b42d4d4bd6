"""The help of the scripts: all flags, by subject, within the terminal's width."""

import dataclasses
import re

import pytest
from absl import flags

from experiments import benchmark, common, prune_unstructured, study, train, train_sparse, usage
from tsjax.benchmark import BenchmarkSettings
from tsjax.study import PruneSettings, SparseSettings, StudySettings, TrainSettings

SCRIPTS = {
    "train": (TrainSettings, train),
    "prune": (PruneSettings, prune_unstructured),
    "sparse": (SparseSettings, train_sparse),
    "study": (StudySettings, study),
    "benchmark": (BenchmarkSettings, benchmark),
}
COMMON = ["preset and size", "data", "model", "training"]
GROUPS = {
    "train": [*COMMON, "output"],
    "prune": [*COMMON, "pruning", "output"],
    "sparse": [*COMMON, "sparse training", "output"],
    "study": [*COMMON, "pruning", "timing", "further questions", "output"],
    "benchmark": ["what is timed", "model", "timing", "output"],
}


def page(script, width=80):
    settings, module = SCRIPTS[script]
    return usage.page(settings, module.__doc__, width)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_flag_stands_once_in_its_group(script):
    text = page(script)
    settings, _ = SCRIPTS[script]
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    own = [field.name for field in dataclasses.fields(settings)]
    assert sorted(shown) == sorted([*own, "traceback", "help", "helpfull"])
    headings = re.findall(r"^(\S.*)\n  --", text, re.MULTILINE)
    assert [h.partition(" (")[0] for h in headings] == [*GROUPS[script], "for every command"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_are_no_longer_than_the_terminal_is_wide(script, width):
    text = page(script, width)
    # What is to be typed stays in one piece: an example, or a list of values.
    wide = [line for line in text.splitlines() if len(line) > width]
    assert all(line.startswith("    ./launch.sh") or len(line.split()) <= 2 for line in wide), wide
    assert "``" not in text


def test_an_entry_says_kind_meaning_and_default():
    text = " ".join(page("study").split())
    assert "--d_model=N model width (default: 64)" in text
    assert "--dropout=X dropout rate (default: 0.05)" in text
    assert "--[no]drop_last_test leave out the last incomplete test batch (default: False)" in text
    assert "--checkpoint=TEXT run folder whose trained model is used (else train) --dens" in text
    assert "--cost_batches=N,... batch sizes to time (default: 1,32)" in text
    # Of a long list the ends.
    assert (
        "--densities=X,... densities to test, without fine-tuning (default: 1,0.8,0.64,...,0.01)"
        in text
    )


def test_a_default_stands_in_the_line_that_announces_it():
    assert not re.search(r"default:$", page("study"), re.MULTILINE)


@pytest.mark.parametrize("word", ["--help", "-h", "--helpshort"])
def test_what_asks_for_help(word):
    assert usage.asked(["study.py", "--d_model=8", word])
    assert not usage.asked([word, "--helpfull", "--d_model=8"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--e_layer=2", "there is no flag --e_layer (did you mean 'e_layers' or 'd_layers'?)"),
        ("--xyz", "there is no flag --xyz"),
        ("--epochs=many", "flag --epochs=many: invalid literal for int() with base 10: 'many'"),
    ],
)
def test_a_wrong_flag_gets_one_line(word, says):
    values = flags.FlagValues()
    common.define_flags(TrainSettings, values)
    with pytest.raises(flags.Error) as caught:
        values(["train", word])
    assert common.wrong_flag(caught.value, values) == says


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["--dataset=ETTh1"], "/of/the/environment"),
        (["--dataset=ETTh1", "--data_dir=/of/the/flag"], "/of/the/flag"),
        ([], None),
    ],
)
def test_the_data_folder_is_the_flags_then_the_environments(words, folder, monkeypatch):
    monkeypatch.setenv("TSJAX_DATA_DIR", "/of/the/environment")
    values = flags.FlagValues()
    common.define_flags(TrainSettings, values)
    values(["train", *words])
    assert common.from_flags(TrainSettings, values).data_dir == folder
