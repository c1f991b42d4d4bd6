"""A run's folder: claimed once, and laid out in one place."""

import pytest

from tsjax.study import RunFolder, claim


def test_a_new_folder_is_made(tmp_path):
    assert claim(tmp_path / "a" / "b") == RunFolder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("name", ["settings", "test", "pruning", "sparse", "results"])
def test_a_folder_that_holds_a_run_is_refused(name, tmp_path):
    held = getattr(RunFolder(tmp_path), name)
    held.touch()
    with pytest.raises(ValueError, match=rf"holds a run \({held.name}\): choose another --out_dir"):
        claim(tmp_path)


def test_a_folder_with_other_files_is_taken(tmp_path):
    (tmp_path / "notes.txt").touch()
    claim(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write to the output folder"):
        claim(tmp_path / "file" / "run")


def test_no_two_things_lie_in_one_place(tmp_path):
    run = RunFolder(tmp_path)
    names = [name for name, kind in vars(RunFolder).items() if isinstance(kind, property)]
    places = [getattr(run, name) for name in names]
    places += [run.finetuned(0.5), run.finetuned(0.25), run.question("sparse")]
    # The result of the script and the folder of the question are told apart by their ending.
    assert len({path.name for path in places}) == len(places) == len(names) + 3
