"""Settings: what beats what, and that a run's command line repeats the run."""

import dataclasses
import json
import shlex

import pytest
from absl import flags

from experiments import common
from tsjax.study import PruneSettings, RunFolder, StudySettings, TrainSettings
from tsjax.study.settings import write_saved


def test_defaults_are_the_small_corrected_study():
    assert StudySettings.make() == StudySettings()
    ladder = StudySettings().densities
    assert ladder[:11] == tuple(0.8**n for n in range(11))
    assert ladder[-1] == 0.01
    assert list(ladder) == sorted(set(ladder), reverse=True)


def test_a_field_beats_the_size_beats_the_preset():
    paper = StudySettings.make(preset="paper")
    assert (paper.size, paper.d_model, paper.freq) == ("paper", 512, "h")
    assert paper.drop_last_test
    assert paper.densities == tuple(0.8**n for n in range(10))
    small = StudySettings.make(preset="paper", size="small")
    assert (small.size, small.d_model, small.freq) == ("small", 64, "h")
    assert StudySettings.make(preset="paper", d_model=32).d_model == 32


@pytest.mark.parametrize(
    ("model", "dataset", "pred_len", "want"),
    [
        ("crossformer", "ETTh1", 96, (168, 6, 1e-4, 256, 4, 20, 0.5)),
        ("crossformer", "ettm2.csv", 720, (672, 24, 1e-5, 256, 4, 20, 0.5)),
        ("crossformer", "electricity.csv", 96, (336, 6, 5e-4, 64, 2, 20, 1.0)),
        ("crossformer", "Traffic", 720, (720, 24, 5e-3, 64, 4, 20, 0.5)),
        ("crossformer", "Weather", 720, (720, 24, 5e-3, 256, 4, 20, 0.5)),
        ("crossformer", "mine.csv", 96, (96, None, 1e-4, 256, 4, 20, 0.5)),
        ("informer", "Traffic", 96, (96, None, 1e-4, 512, 8, 3, 0.5)),
        ("fedformer", "ETTh1", 96, (96, None, 1e-4, 512, 8, 10, 0.5)),
    ],
)
def test_published_sizes_depend_on_model_data_and_horizon(model, dataset, pred_len, want):
    s = TrainSettings.make(preset="paper", model=model, dataset=dataset, pred_len=pred_len)
    got = (s.seq_len, s.seg_len, s.learning_rate, s.d_model, s.n_heads, s.epochs, s.lr_decay)
    assert got == want
    assert TrainSettings.make(size="paper", model=model, epochs=2).epochs == 2


@pytest.mark.parametrize("dataset", ["ETTh1", "electricity.csv", "Exchange", "mine.csv"])
def test_crossformer_runs_as_its_authors_run_it_and_the_others_as_fedformers_do(dataset):
    def run(**given):
        s = TrainSettings.make(dataset=dataset, **given)
        schedule = (s.full_rate_epochs, s.decay_every, s.lr_floor)
        return schedule, s.drop_last_train, s.drop_last_test, s.split

    split = "months_15_3_4" if dataset == "electricity.csv" else None
    want = ((2, 2, 1 / 32), False, False, split)
    assert run(preset="paper", model="crossformer") == want
    assert run(preset="paper", model="crossformer", size="small") == want
    for model in ("transformer", "informer", "autoformer", "fedformer"):
        assert run(preset="paper", model=model) == ((2, 1, 0.0), True, True, None)
    for preset in ("corrected", "tslib"):
        rates, *_, split = run(preset=preset, model="crossformer")
        assert rates[1:] == (1, 0.0)
        assert split is None


def test_the_rate_reaches_the_trainer():
    config = TrainSettings.make(preset="paper", model="crossformer", dataset="ETTh1").fit_config()
    assert (config.lr_decay, config.full_rate_epochs) == (0.5, 2)
    assert (config.decay_every, config.lr_floor, config.drop_last) == (2, 1 / 32, False)
    assert TrainSettings.make(decay_every=3, lr_floor=0.1).fit_config().decay_every == 3
    with pytest.raises(ValueError, match=r"lr_floor must be in \[0, 1\], got 2"):
        TrainSettings(lr_floor=2.0)


@pytest.mark.parametrize(
    "name", ["ILI", "illness", "national_illness.csv", "some/national_illness.csv"]
)
def test_ili_has_the_lengths_of_its_published_results(name):
    def lengths(**given):
        s = TrainSettings.make(dataset=name, **given)
        return s.seq_len, s.label_len, s.pred_len

    for preset in ("paper", "tslib"):
        assert lengths(preset=preset) == (36, 18, 24)
        assert lengths(preset=preset, pred_len=60) == (36, 18, 60)
        assert lengths(preset=preset, seq_len=12) == (12, 12, 24)
        assert lengths(preset=preset, seq_len=96, label_len=48) == (96, 48, 24)
    assert lengths(preset="paper", model="crossformer") == (36, 18, 24)
    assert lengths() == (96, 48, 96)


def test_options_are_further_fields_of_the_models_configuration():
    def options(model="fedformer", **given):
        return TrainSettings.make(model=model, **given).model_options()

    got = options(options=("context=reread", "positions=true", "moving_avg=[12, 24]"), modes=8)
    assert got["context"] == "reread"
    assert got["positions"] is True
    assert got["moving_avg"] == [12, 24]
    assert got["modes"] == 8
    assert "modes" not in options()
    with pytest.raises(ValueError, match="transformer has no modes, seg_len: leave that out"):
        options("transformer", modes=8, seg_len=6)
    for wrong, says in {
        "context": "options takes name=value, got 'context'",
        "d_model=3": "options sets d_model, which has a flag of its own: --d_model",
        "epochs=3": "options sets epochs, which has a flag of its own: --epochs",
        "enc_in=3": "options sets enc_in, which is the data's",
    }.items():
        with pytest.raises(ValueError, match=says):
            TrainSettings.make(model="fedformer", options=(wrong,))
    with pytest.raises(ValueError, match="options sets context twice"):
        options(options=("context=reread", "context=transposed"))


def test_published_schedules_keep_the_first_rate_for_two_epochs():
    assert TrainSettings.make(preset="tslib").full_rate_epochs == 2
    assert TrainSettings().full_rate_epochs == 1


def parse(settings, command):
    """Settings from a command line, through the flags' own parsing."""
    values = flags.FlagValues()
    common.define_flags(settings, values)
    values(shlex.split(command)[1:])
    return common.from_flags(settings, values)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"dataset": "ETTh1", "data_dir": "some dir/with spaces", "pred_len": 192},
        {"preset": "paper"},
        {"preset": "paper", "size": "small", "drop_last_test": False},
        {"densities": (0.5, 0.25), "finetune_densities": (), "cost_batches": (1, 3)},
        {"channels": ("a", "b"), "learning_rate": 3e-4, "drop_last_train": False},
        {"channels": ("T, degC", ' p "hPa" ')},
        {"preset": "paper", "freq": None},
        {"seq_len": 24},
        {"preset": "paper", "model": "crossformer", "dataset": "ETTh1", "pred_len": 192},
        {"preset": "paper", "model": "crossformer", "dataset": "ECL", "split": None},
        {"preset": "paper", "dataset": "ILI"},
        {"preset": "paper", "dataset": "ILI", "seq_len": 96, "pred_len": 96},
        {"model": "fedformer", "options": ("context=reread", "moving_avg=[12, 24]"), "modes": 8},
    ],
)
def test_the_command_repeats_the_run(given, monkeypatch):
    # The flags would take it for the data folder.
    monkeypatch.delenv("TSJAX_DATA_DIR", raising=False)
    settings = StudySettings.make(**given)
    assert settings.command().startswith("./launch.sh study")
    assert parse(StudySettings, settings.command()) == settings


@pytest.fixture
def run_folder(tmp_path):
    """A folder with the settings of a run that differ from the defaults."""
    trained = TrainSettings.make(preset="tslib", dataset="ETTh1", d_model=24, out_dir="x")
    write_saved(trained, RunFolder(tmp_path))
    return trained, tmp_path


def test_a_checkpoint_brings_its_runs_settings(run_folder):
    trained, folder = run_folder
    settings = PruneSettings.make(checkpoint=str(folder), data_dir="elsewhere", seed=0)
    same = {f.name for f in dataclasses.fields(TrainSettings)} - {"data_dir", "out_dir"}
    assert all(getattr(settings, name) == getattr(trained, name) for name in same)
    assert (settings.data_dir, settings.out_dir) == ("elsewhere", None)


def test_a_checkpoint_fixes_what_its_run_was(run_folder):
    given = {"size": "paper", "seed": 3, "preset": "paper"}
    with pytest.raises(ValueError, match="fixes preset, size, seed: leave that out"):
        PruneSettings.make(checkpoint=str(run_folder[1]), **given)


def test_the_command_of_a_run_from_a_checkpoint_repeats_it(run_folder):
    given = {"checkpoint": str(run_folder[1]), "densities": (0.5,), "data_dir": "d"}
    settings = StudySettings.make(**given)
    assert "--preset" not in settings.command()
    assert parse(StudySettings, settings.command()) == settings


def test_saved_places_hold_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "own.csv").touch()
    (tmp_path / "ETTh1").mkdir()
    write_saved(TrainSettings.make(dataset="ETTh1"), RunFolder(tmp_path))
    assert json.loads((tmp_path / "settings.json").read_text())["dataset"] == "ETTh1"
    write_saved(TrainSettings.make(dataset="own.csv", data_dir="data"), RunFolder(tmp_path))
    saved = json.loads((tmp_path / "settings.json").read_text())
    assert saved["data_dir"] == str(tmp_path / "data")
    assert saved["dataset"] == str(tmp_path / "own.csv")


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained run at"):
        PruneSettings.make(checkpoint=str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"x"', "null"])
def test_a_file_that_is_no_settings_is_said_to_be_none(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="does not hold a run's settings"):
        PruneSettings.make(checkpoint=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("preset", "odd", "preset is 'odd'"),
        ("batch_size", "x", "batch_size must be int, got 'x'"),
        ("seed", 1.5, "seed must be int, got 1.5"),
        ("seed", True, "seed must be int, got True"),
    ],
)
def test_settings_of_a_wrong_type_are_refused(name, value, says, run_folder):
    path = run_folder[1] / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=says):
        PruneSettings.make(checkpoint=str(run_folder[1]))


def test_all_faults_are_said_at_once():
    with pytest.raises(ValueError, match="densities must be in") as caught:
        StudySettings(densities=(1.5, 0.0, 0.5), finetune_epochs=0, cost_batches=(0,), epochs=0)
    assert str(caught.value) == (
        "epochs must be at least 1, got 0; densities must be in (0, 1], got 1.5, 0; "
        "finetune_epochs must be at least 1, got 0; cost_batches must be at least 1, got 0"
    )


def test_a_short_look_back_needs_no_second_flag():
    assert TrainSettings.make(seq_len=24).label_len == 24
    assert TrainSettings.make(seq_len=336).label_len == 48
    assert TrainSettings.make(seq_len=24, label_len=12).label_len == 12


def test_a_density_twice_is_refused():
    with pytest.raises(ValueError, match=r"finetune_densities holds 0\.5 twice"):
        StudySettings(finetune_densities=(0.5, 0.5))


def test_near_names():
    with pytest.raises(ValueError, match="did you mean 'dataset'"):
        StudySettings.make(datset="x")
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        StudySettings.make(preset="papr")
