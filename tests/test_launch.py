"""launch.sh sets up what it needs, says what is missing in one line, and keeps what works."""

import os
import pty
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

COMMANDS = ("study", "train", "prune", "sparse", "benchmark", "test", "lint", "setup", "help")

# A Python whose venv, ensurepip and pip take no time, and that notes how it was called. $PIP is
# what `pip install` does, $LACKS names modules that are not there.
FAKE_PYTHON = r"""
echo "$*" >>"$NOTES"
case "$*" in
  "-m venv"*) for last; do :; done
    mkdir -p "$last/bin" && touch "$last/pyvenv.cfg" && cp "$0" "$last/bin/python" ;;
  "-m ensurepip"*) eval "${ENSUREPIP:-true}" && touch "$(dirname "$0")/has-pip" ;;
  "-m pip --version") [ -e "$(dirname "$0")/has-pip" ] ;;
  "-m pip install"*) eval "$PIP" ;;
  "-P -c"*) for lacking in $LACKS; do case "$3" in *" $lacking"*) exit 1 ;; esac; done ;;
esac
"""
OFFLINE = "echo 'ERROR: Failed to establish a new connection'; exit 1"
NO_INDEX = "the package index cannot be reached: is there a network, or a proxy to set?"
UNREACHED = f"launch.sh: installing failed: {NO_INDEX}"


def executable(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def launch(tmp_path):
    """Runs launch.sh with a bare home, stubs first on the path, and an environment to be made."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    notes = tmp_path / "notes"
    root = ROOT

    def environment(extra):
        return {
            "PATH": f"{stubs}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"),
            "PYTHON": str(stubs / "fake-python"), "TSJAX_VENV": str(tmp_path / "venv"),
            "TSJAX_CUDA": "0", "TMPDIR": str(tmp_path / "logs"), "NOTES": str(notes), **extra,
        }  # fmt: skip

    def run(*arguments, script=None, cwd=tmp_path, **extra):
        return subprocess.run(
            [script or run.root / "launch.sh", *arguments], env=environment(extra), cwd=cwd,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def notes_of(start):
        """The notes that begin with some words, and forgets all."""
        lines = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return [line for line in lines if line.startswith(start)]

    def copy():
        """From here on runs a checkout of its own, whose pyproject.toml may change."""
        run.root = tmp_path / "checkout"
        run.root.mkdir()
        for name in ("launch.sh", "pyproject.toml"):
            shutil.copy(root / name, run.root)
        return run.root / "pyproject.toml"

    run.root = root
    run.stub = lambda name, script: executable(stubs / name, script)
    run.stub("fake-python", FAKE_PYTHON)
    run.notes, run.copy, run.environment = notes_of, copy, environment
    run.venv = tmp_path / "venv"
    run.stamp = run.venv / "tsjax-stamp"
    run.logs = tmp_path / "logs"
    run.logs.mkdir()
    return run


def last_line(done):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_help_names_the_commands_and_the_environment(launch):
    for arguments in (["--help"], ["help"], ["-h"]):
        done = launch(*arguments)
        assert done.returncode == 0
        for command in COMMANDS:
            assert f"\n  {command} " in done.stdout
    for variable in re.findall(r"\$\{([A-Z_]*[A-Z])[-:]", (ROOT / "launch.sh").read_text()):
        if variable not in ("BASH_SOURCE", "PIP_RETRIES", "TERM"):
            assert f"\n  {variable} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert not launch.venv.exists()


def test_an_unknown_command_is_named(launch):
    done = launch("stduy")
    assert last_line(done) == "launch.sh: no command 'stduy': ./launch.sh help lists them"
    assert len(done.stderr.splitlines()) == 1


def test_an_old_python_is_named(launch):
    launch.stub("python3.8", '[ "$1" = --version ] && echo Python 3.8.1')
    line = last_line(launch("setup", PYTHON="python3.8"))
    assert line.startswith("launch.sh: Python 3.11 or newer is needed, found Python 3.8.1.")
    assert not launch.venv.exists()


def test_no_python_at_all(launch):
    assert "found no Python" in last_line(launch("setup", PYTHON="no-such-python"))


def test_a_full_disk_is_said_before_anything_is_made(launch):
    launch.stub("df", "echo header; echo /dev/x 100000 99990 10 99% /")
    line = last_line(launch("setup"))
    assert "not enough disk: 2000 MB are needed" in line
    assert "10 MB are free" in line
    assert not launch.venv.exists()


def test_the_disk_that_counts_is_that_of_the_environment(launch, tmp_path):
    full = f'[ "$2" = {tmp_path} ] && free=10 || free=99999'
    launch.stub("df", f'{full}; echo header; echo "/dev/x 1 1 $free 99% $2"')
    line = last_line(launch("setup", TSJAX_VENV=str(tmp_path / "new" / "deep" / "venv")))
    assert line.endswith(f"2000 MB are needed in {tmp_path}, 10 MB are free")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_other_things_is_not_made_an_environment(launch):
    (launch.venv / "lib").mkdir(parents=True)
    (launch.venv / "letters").touch()
    assert "is no virtual environment, and is not empty" in last_line(launch("setup"))
    assert (launch.venv / "letters").exists()


@pytest.mark.parametrize(
    "left", [["bin/python"], ["bin/python", "bin/has-pip", "tsjax-unfinished"]]
)
def test_half_an_environment_is_made_anew(launch, left):
    """An interrupt leaves a Python without pip, or with a pip that is not all there."""
    for name in left:
        executable(launch.venv / name, FAKE_PYTHON)
    assert launch("setup").returncode == 0
    assert launch.notes("-m venv") == [f"-m venv --clear --without-pip {launch.venv}"]
    assert not (launch.venv / "tsjax-unfinished").exists()
    # Not again, once it is whole.
    launch.stamp.unlink()
    assert launch("setup").returncode == 0
    assert launch.notes("-m venv") == []


def test_an_environment_that_cannot_be_made_is_said(launch):
    line = last_line(launch("setup", ENSUREPIP="echo broken; false"))
    assert f"cannot make a virtual environment in {launch.venv} (see " in line
    assert [log.read_text() for log in launch.logs.iterdir()] == ["broken\n"]


def test_a_python_without_venv_is_said(launch):
    launch.stub("python-bare", 'case "$2" in *ensurepip*) exit 1;; esac')
    assert "install its venv package" in last_line(launch("setup", PYTHON="python-bare"))


def test_no_network_is_said(launch):
    """A real pip says so, in words that are known."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    nowhere |= {"PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": "", "PIP_RETRIES": "1"}
    pip = f'{sys.executable} "$@" --dry-run --ignore-installed'
    line = last_line(launch("setup", PIP=pip, **nowhere))
    assert line.startswith(UNREACHED)
    # The log is there to be read, and what is half made is not taken for an environment.
    assert "Connection refused" in Path(re.search(r"\(see (.*)\)", line)[1]).read_text()
    assert not launch.stamp.exists()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for jax", "No matching distribution found for jax"),
        ("Name or service not known: Name resolution", "the package index cannot be reached"),
        ("error: [Errno 13] Permission denied: 'x'", "permission denied"),
        ("a surprise", "pip failed"),
    ],
)
def test_the_reason_is_read_from_the_log(launch, says, reason):
    line = last_line(launch("setup", PIP=f'echo "{says}"; exit 1'))
    assert line.startswith(f"launch.sh: installing failed: {reason}")
    assert [log.read_text() for log in launch.logs.iterdir()] == [f"{says}\n"]


def test_it_installs_once(launch):
    done = launch("setup")
    assert done.returncode == 0, done.stderr
    assert launch.notes("-m pip install") == [
        f"-m pip install --disable-pip-version-check -e {ROOT}[report]"
    ]
    done = launch("study", "--dataset=ETTh1", PYTHON="no-such-python", PIP="exit 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert launch.notes("") == ["-c ", f"{ROOT}/experiments/study.py --dataset=ETTh1"]
    # The tests need more, and bring all that the study needs.
    assert launch("test", "--all", "-k", "masks").returncode == 0
    assert launch.notes("-m")[1:] == [
        f"-m pip install --disable-pip-version-check -e {ROOT}[test]",
        "-m pytest -n auto --all -k masks",
    ]
    assert launch("train").stderr == ""
    assert list(launch.logs.iterdir()) == []


def test_a_changed_pyproject_is_installed(launch):
    pyproject = launch.copy()
    assert launch("setup").returncode == 0
    pyproject.write_text(pyproject.read_text() + "# changed\n")
    launch.notes("")
    assert launch("train").returncode == 0
    assert len(launch.notes("-m pip install")) == 1
    assert launch("train").stderr == ""


def test_a_changed_pyproject_keeps_what_works_where_nothing_can_be_installed(launch):
    pyproject = launch.copy()
    asked = pyproject.read_text()
    assert launch("setup").returncode == 0
    stamp = launch.stamp.read_text()
    pyproject.write_text(asked + "# changed\n")
    launch.notes("")
    # Neither does it need the room that a new environment would.
    launch.stub("df", "echo header; echo /dev/x 100000 99990 10 99% /")
    done = launch("train", "--seed=1", PIP=OFFLINE)
    assert done.returncode == 0
    assert done.stderr.splitlines()[1:] == [
        f"launch.sh: installing failed ({NO_INDEX}): going on with what is installed"
    ]
    assert launch.notes("")[-1] == f"{launch.root}/experiments/train.py --seed=1"
    assert list(launch.logs.iterdir()) == []
    # Nothing is taken for installed, nor for gone: the earlier file is served in silence.
    assert launch.stamp.read_text() == stamp
    pyproject.write_text(asked)
    assert launch("train", PIP="exit 1").stderr == ""


@pytest.mark.parametrize(
    ("command", "lacks"),
    [("test", "pytest"), ("lint", "ruff"), ("train", "tsjax.study"), ("setup", "")],
)
def test_what_cannot_go_on_without_installing_does_not(launch, command, lacks):
    """``setup`` is asked for nothing else."""
    pyproject = launch.copy()
    assert launch("setup").returncode == 0
    pyproject.write_text(pyproject.read_text() + "# changed\n")
    line = last_line(launch(command, PIP=OFFLINE, LACKS=lacks))
    assert line.startswith(UNREACHED)


def test_an_installation_of_another_checkout_is_none(launch, tmp_path):
    """The modules are there, but not those of this folder: a real Python looks."""
    launch.copy()
    assert launch("setup").returncode == 0
    launch.stamp.unlink()
    modules = (
        "absl/flags",
        "jinja2",
        "matplotlib",
        "tsjax/__init__",
        "tsjax/report",
        "tsjax/study",
    )
    for root in (launch.root, tmp_path / "another"):
        for name in modules:
            module = root / f"{name}.py"
            module.parent.mkdir(parents=True, exist_ok=True)
            module.touch()
        look = f'[ "$1" != -P ] || PYTHONPATH={root} exec {sys.executable} "$@"'
        launch.stub("python", f"{look}\n{FAKE_PYTHON}")
        shutil.copy(tmp_path / "stubs" / "python", launch.venv / "bin" / "python")
        done = launch("train", PIP=OFFLINE)
        if root == launch.root:
            assert done.returncode == 0, done.stderr
        else:
            assert last_line(done).startswith(UNREACHED)


def test_packages_half_changed_are_not_what_the_stamp_says(launch):
    pyproject = launch.copy()
    asked = pyproject.read_text()
    assert launch("setup").returncode == 0
    pyproject.write_text(asked + "# changed\n")
    launch("setup", PIP="echo Installing collected packages: jax; exit 1")
    pyproject.write_text(asked)
    launch.notes("")
    assert launch("setup").returncode == 0
    assert len(launch.notes("-m pip install")) == 1


# A process that ignores interrupts, such as a job in the background, has children that do so, too.
UNIGNORED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
SLOW = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, {reaction})
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize("step", ["ENSUREPIP", "PIP"])
@pytest.mark.parametrize("reaction", ["signal.SIG_DFL", "lambda *_: sys.exit(1)"])
def test_an_interrupt_is_said_and_blocks_nothing(launch, tmp_path, step, reaction):
    """Whether what is interrupted dies of it, or exits as pip does."""
    begun = tmp_path / "begun"
    slow = shlex.join([sys.executable, "-S", "-c", SLOW.format(reaction=reaction), str(begun)])
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", UNIGNORED, str(ROOT / "launch.sh"), "setup"],
        env=launch.environment({step: f"exec {slow}"}),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(begun.exists)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "launch.sh: interrupted"
    assert len(stderr.splitlines()) <= 3
    assert list(launch.logs.iterdir()) == []
    wait_for(lambda: gone(process.pid))
    done = launch("setup")
    assert done.returncode == 0, done.stderr
    assert launch.stamp.exists()


def wait_for(happened, seconds=20):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(group):
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


SLOW_PIP = "echo Obtaining tsjax; echo 'Collecting jax>=0.10 (from tsjax)'; sleep 2.5"


def test_progress_is_said_in_lines(launch):
    done = launch("setup", PIP=SLOW_PIP)
    first, *progress = done.stderr.splitlines()
    assert first == f"Setting up {launch.venv} (only this once; it takes a few minutes) ..."
    # One in ten seconds.
    assert [re.sub(r"\d+", "N", line) for line in progress] == ["  N s: collecting jax"]


def test_progress_moves_on_a_terminal(launch):
    ours, theirs = pty.openpty()
    env = launch.environment({"PIP": SLOW_PIP, "TERM": "xterm"})
    done = subprocess.run([ROOT / "launch.sh", "setup"], env=env, stderr=theirs, check=False)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert len(re.findall(r"\r\x1b\[K  \d+ s: collecting jax", shown)) >= 2
    # Nothing of it is left standing.
    assert shown.endswith("\r\x1b[K")
    assert shown.count("\n") == 1


def link_to(path, target):
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)
    return path


def test_a_link_leads_to_the_checkout(launch, tmp_path):
    """Through a relative link to another, from elsewhere."""
    link_to(tmp_path / "one" / "launch", ROOT / "launch.sh")
    link = link_to(tmp_path / "two" / "tsjax", "../one/launch")
    assert launch("setup", script=link).returncode == 0
    assert launch("train", script="two/tsjax").stderr == ""
    assert launch.notes("-m pip install")[0].endswith(f"-e {ROOT}[report]")
    assert launch.stamp.read_text().split()[2] == str(ROOT)


def test_a_relative_path_is_not_looked_for_elsewhere(launch, tmp_path):
    (tmp_path / "astray" / ROOT.name).mkdir(parents=True)
    elsewhere = {"CDPATH": str(tmp_path / "astray")}
    done = launch("setup", script=f"{ROOT.name}/launch.sh", cwd=ROOT.parent, **elsewhere)
    assert done.returncode == 0, done.stderr
    assert launch.stamp.read_text().split()[2] == str(ROOT)


@pytest.fixture
def environment(launch):
    """Makes an environment whose Python is a shell script."""

    def make(script):
        """The file in which the script's output is left."""
        assert launch("setup").returncode == 0
        called = launch.venv / "called"
        python = launch.venv / "bin" / "python"
        executable(python, f'[ "$1" = -c ] && exit 0\n{{ {script}; }} >> {called}')
        return called

    return make


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, "glibc.malloc.check=0"),
        ({"GLIBC_TUNABLES": ""}, ""),
    ],
)
def test_arrays_lie_on_huge_pages_unless_told_otherwise(environment, launch, given, used):
    called = environment('echo "$GLIBC_TUNABLES"')
    assert launch("train", **given).returncode == 0
    assert called.read_text() == f"{used}\n"


def test_words_are_passed_on_as_they_are(environment, launch):
    called = environment('for word; do echo "$word"; done')
    assert launch("--dataset=my file.csv", "--options=").returncode == 0
    study = str(ROOT / "experiments" / "study.py")
    assert called.read_text().splitlines() == [study, "--dataset=my file.csv", "--options="]


def test_a_driver_that_answers_brings_cuda(launch):
    launch.stub("nvidia-smi", "echo 'GPU 0: test'")
    launch.stub("df", "echo header; echo /dev/x 100000 95000 5000 95% /")
    # CUDA needs more room than there is here: it says so instead of installing.
    assert "8000 MB are needed" in last_line(launch("setup", TSJAX_CUDA=""))
    assert "TSJAX_CUDA is 'yes': use 1 or 0" in last_line(launch("setup", TSJAX_CUDA="yes"))
    launch.stub("df", "echo header; echo /dev/x 100000 90000 10000 95% /")
    assert launch("setup", TSJAX_CUDA="").returncode == 0
    assert launch.notes("-m pip install")[0].endswith("[report,cuda12]")
