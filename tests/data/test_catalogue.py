"""Names, aliases and where files are looked for."""

import re
import sys

import pytest

from tsjax import data

CSV = "date,a,b\n2020-01-01,1,2\n2020-01-02,3,5\n2020-01-03,4,4\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TSJAX_DATA_DIR", raising=False)
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name in ("electricity.csv", "mine.csv", "deep/other.csv", "deep/deeper/lost.csv"):
        (tmp_path / name).write_text(CSV)
    return tmp_path


@pytest.mark.parametrize("name", ["ECL", "ecl", "Electricity", "electricity.csv"])
def test_a_known_set_answers_to_its_aliases_in_any_case(folder, name):
    assert data.load(name, folder).name == "ECL"


@pytest.mark.parametrize("name", ["mine", "MINE", "mine.csv", "other", "deep/other", "other.csv"])
def test_any_csv_file_of_the_folder_is_a_name(folder, name):
    assert data.load(name, folder).channels == ("a", "b")


def test_a_path_needs_no_folder(folder):
    assert data.load(str(folder / "deep" / "deeper" / "lost.csv")).name == "lost"


def test_a_bare_name_is_not_taken_from_the_working_folder(folder, monkeypatch):
    (folder / "mine").write_text("not this one")
    monkeypatch.chdir(folder)
    assert data.load("mine", folder).name == "mine"


def test_the_folder_may_come_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("TSJAX_DATA_DIR", str(folder))
    assert data.load("ECL").name == "ECL"
    assert data.names() == ("synthetic", "ECL", "mine", "other")


def test_a_known_file_may_lie_in_a_subfolder_or_be_called_by_the_sets_name(folder):
    (folder / "deep" / "weather.csv").write_text(CSV)
    (folder / "ILI.csv").write_text(CSV)
    assert data.load("Weather", folder).name == "Weather"
    assert data.load("illness", folder).name == "ILI"


def test_synthetic_needs_no_folder(monkeypatch):
    monkeypatch.delenv("TSJAX_DATA_DIR", raising=False)
    assert data.names() == ("synthetic",)
    assert data.load("Synthetic", rows=50).values.shape == (50, 7)


def test_a_file_in_the_folder_itself_goes_first_and_two_below_it_are_ambiguous(folder):
    (folder / "second").mkdir()
    (folder / "second" / "other.csv").write_text(CSV)
    match = "'other' fits several files in .*: deep/other.csv, second/other.csv; pass the path"
    with pytest.raises(ValueError, match=match):
        data.load("other", folder)
    (folder / "other.csv").write_text(CSV.replace("a,b", "c,d"))
    assert data.load("other", folder).channels == ("c", "d")


def test_the_catalogue_says_where_each_set_comes_from():
    entries = data.catalogue()
    assert list(entries) == [
        *("ETTh1", "ETTh2", "ETTm1", "ETTm2"),
        *("ECL", "Exchange", "Traffic", "Weather", "ILI"),
    ]
    for name, entry in entries.items():
        assert entry.answers_to(name.upper())
        assert "github.com/" in entry.source
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)


def test_another_set_is_an_entry_of_the_catalogue(folder, monkeypatch):
    """Its name, aliases, split, sentinel and remark all come from the one entry."""
    toy = data.Entry(
        *("Toy", "other.csv", "nowhere", ("plaything",)),
        split="ett_hour",
        sentinel=3.0,
        remark="A set of three rows.",
    )
    # Its name is also that of the function that the package exports.
    module = sys.modules["tsjax.data.catalogue"]
    monkeypatch.setattr(module, "_ENTRIES", (*module._ENTRIES, toy))
    series = data.load("plaything", folder)
    assert (series.name, series.split) == ("Toy", "ett_hour")
    assert "A set of three rows." in series.notes
    assert series.values.tolist() == [[1, 2], [1, 5], [4, 4]]
    assert "Toy" in data.names(folder)
    assert data.catalogue()["Toy"] is toy


def test_an_unknown_name_brings_near_names_of_sets_and_files(folder):
    with pytest.raises(ValueError, match=r"no data set 'ETTh3' \(did you mean 'ETTh2' or"):
        data.load("ETTh3", folder)
    with pytest.raises(ValueError, match=r"'othr' \(did you mean 'other'\?\).*Weather, ILI, mine"):
        data.load("othr", folder)
    with pytest.raises(ValueError, match="none is set: --data_dir, data_dir= or TSJAX_DATA_DIR"):
        data.load("mine")


def test_a_known_set_without_a_file_says_where_to_get_it(folder):
    with pytest.raises(FileNotFoundError) as error:
        data.load("ETTm1", folder)
    assert str(error.value) == (
        f"ETTm1 needs ETTm1.csv, which is not in {folder}: get the file from the ETDataset "
        "repository, github.com/zhouhaoyi/ETDataset, and name its folder with --data_dir "
        "(data_dir=) or TSJAX_DATA_DIR"
    )
    match = r"Traffic needs traffic.csv, but no data folder is set: .*thuml/Autoformer.*--data_dir"
    with pytest.raises(FileNotFoundError, match=match):
        data.load("traffic")


def test_a_missing_path_or_folder(folder):
    with pytest.raises(FileNotFoundError, match=r"no file 'mne.csv', .*did you mean 'mine.csv'"):
        data.load("mne.csv", folder)
    with pytest.raises(
        FileNotFoundError, match=r"^--data_dir .data_dir=. is '/no/such', which is not a folder"
    ):
        data.load("mine", "/no/such")


def test_a_home_that_does_not_exist_is_a_missing_path_or_folder(folder):
    home = "~no_such_user"
    with pytest.raises(FileNotFoundError, match=f"data_dir=. is '{home}/x', which is not a folder"):
        data.load("mine", f"{home}/x")
    with pytest.raises(FileNotFoundError, match=f"no file '{home}/x.csv', as a path or in"):
        data.load(f"{home}/x.csv", folder)
    with pytest.raises(ValueError, match=f"no data set '{home}/x'"):
        data.load(f"{home}/x", folder)


def test_a_missing_folder_from_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("TSJAX_DATA_DIR", "/no/such")
    with pytest.raises(FileNotFoundError, match=r"^TSJAX_DATA_DIR is '/no/such'"):
        data.load("ETTh1")
