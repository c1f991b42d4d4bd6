"""launch.sh says what is missing in one line, and installs nothing then."""

import os
import stat
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def launch(tmp_path):
    """Runs launch.sh with a bare home, stubs first on the path, and an environment to be made."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()

    def stub(name, script):
        path = stubs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(*arguments, **extra):
        env = {
            "PATH": f"{stubs}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"),
            "PYTHON": sys.executable, "TSJAX_VENV": str(tmp_path / "venv"),
            "TMPDIR": str(tmp_path), **extra,
        }  # fmt: skip
        return subprocess.run(
            [ROOT / "launch.sh", *arguments],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    run.stub = stub
    run.venv = tmp_path / "venv"
    return run


def last_line(done):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_help_lists_the_commands(launch):
    for arguments in (["--help"], ["help"]):
        done = launch(*arguments)
        assert done.returncode == 0
        for command in ("study", "train", "prune", "sparse", "benchmark", "test", "lint", "setup"):
            assert f"\n  {command} " in done.stdout
    assert not launch.venv.exists()


def test_an_unknown_command_is_named(launch):
    assert last_line(launch("stduy")) == "launch.sh: no command 'stduy'"


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


def test_an_environment_without_pip_is_made_anew(launch, tmp_path):
    """What an interrupted `python -m venv` leaves has a Python and no pip."""
    bin_dir = launch.venv / "bin"
    bin_dir.mkdir(parents=True)
    (bin_dir / "python").write_text('#!/bin/sh\n[ "$2" != pip ]\n')
    (bin_dir / "python").chmod(0o755)
    made = tmp_path / "made"
    stub = f'[ "$2" = venv ] && echo "$@" > {made} && exit 1; exec {sys.executable} "$@"'
    launch.stub("python-stub", stub)
    line = last_line(launch("setup", PYTHON="python-stub", TSJAX_CUDA="0"))
    assert "cannot make a virtual environment in" in line
    assert made.read_text() == f"-m venv --clear {launch.venv}\n"


def test_a_python_without_venv_is_said(launch):
    stub = f'case "$2" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"'
    launch.stub("python-bare", stub)
    assert "install its venv package" in last_line(launch("setup", PYTHON="python-bare"))


def test_no_network_is_said(launch):
    nowhere = "http://127.0.0.1:9/simple"
    offline = {"PIP_INDEX_URL": nowhere, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    line = last_line(launch("setup", **offline))
    assert "installing failed: the package index cannot be reached" in line
    # What is half made is not taken for an environment.
    assert not (launch.venv / "tsjax-stamp").exists()


@pytest.fixture
def environment(launch):
    """Makes an environment whose stamp is right, and whose Python is a shell script."""

    def make(script):
        """The file in which the script's output is left."""
        bin_dir = launch.venv / "bin"
        bin_dir.mkdir(parents=True)
        called = launch.venv / "called"
        python = bin_dir / "python"
        python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{{ {script}; }} >> {called}\n')
        python.chmod(0o755)
        checksum = subprocess.run(
            ["cksum"], input=(ROOT / "pyproject.toml").read_bytes(), capture_output=True, check=True
        ).stdout.decode().strip()  # fmt: skip
        (launch.venv / "tsjax-stamp").write_text(f"{checksum} {ROOT} test\n")
        return called

    return make


def test_an_environment_that_is_there_is_used_at_once(environment, launch):
    """Neither Python nor network is looked for when the stamp is right."""
    called = environment('for word; do echo "$word"; done')
    done = launch("--dataset=ETTh1", "--d_model=8", PYTHON="no-such-python", TSJAX_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert called.read_text().splitlines() == [
        str(ROOT / "experiments" / "study.py"), "--dataset=ETTh1", "--d_model=8",
    ]  # fmt: skip


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
    assert launch("train", TSJAX_CUDA="0", **given).returncode == 0
    assert called.read_text() == f"{used}\n"


def test_a_driver_that_answers_brings_cuda(launch):
    launch.stub("nvidia-smi", "echo 'GPU 0: test'")
    launch.stub("df", "echo header; echo /dev/x 100000 95000 5000 95% /")
    # CUDA needs more room than there is here: it says so instead of installing.
    assert "8000 MB are needed" in last_line(launch("setup"))
    assert "TSJAX_CUDA is 'yes': use 1 or 0" in last_line(launch("setup", TSJAX_CUDA="yes"))
