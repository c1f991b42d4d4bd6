#!/usr/bin/env bash
# Sets up tsjax in a virtual environment of its own, and runs the study, its parts, or the tests.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: ./launch.sh [command] [flags]

commands
  study     train, prune, fine-tune, count, time and report; what runs where no command is given
  train     train a forecaster and test it
  prune     prune a trained forecaster (--checkpoint=RUN_FOLDER), or train one first
  sparse    train a forecaster sparse from its first step, beside a dense one
  benchmark time the models, dense and cut, beside PyTorch where it is installed
  test      run the short tests, or with --all the long forms too; other arguments go to pytest
  lint      check style and types
  setup     only set up
  help      print this text

'./launch.sh study --help' says what a command does and lists its flags by subject.

The first call makes a virtual environment in .venv and installs tsjax there, with CUDA where an
NVIDIA driver answers. Later calls install nothing until pyproject.toml changes, or until a command
needs more than is there: 'test' and 'lint' need the test tools. If installing fails then, a command
goes on with what is installed where that is enough for it, and says so.

environment
  PYTHON          which Python makes the environment (3.11 or newer)
  TSJAX_VENV      where the virtual environment lies (.venv)
  TSJAX_DATA_DIR  folder with the CSV files (ETTh1.csv, ...), as --data_dir; the tests read it too
  TSJAX_GOLDEN_DIR  folder with all reference cases of the tests
  TSJAX_CUDA      1 or 0: install CUDA support or not, whether or not a driver answers
  GLIBC_TUNABLES  where this is not set, arrays lie on huge pages (glibc.malloc.hugetlb=1) on Linux
  TMPDIR          where the log of an installation that failed is left (/tmp)
  PIP_INDEX_URL   and pip's other variables hold, as do those of a proxy (HTTPS_PROXY)

examples
  ./launch.sh
  ./launch.sh study --dataset=ETTh1 --data_dir=DIR --pred_len=96
  ./launch.sh prune --checkpoint=runs/RUN --densities=0.5,0.1
  ./launch.sh test tests/pruning -k select
TEXT
}

fail() {
  end_progress
  printf 'launch.sh: %s\n' "$*" >&2
  exit 1
}

# The folder that a file lies in, symbolic links followed (readlink -f is not everywhere).
folder_of() {
  local file=$1 target
  while [[ -L $file ]]; do
    target=$(readlink "$file")
    [[ $target == /* ]] || target=$(dirname "$file")/$target
    file=$target
  done
  CDPATH='' cd -P -- "$(dirname -- "$file")" && pwd
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
    [[ -z ${PYTHON:-} ]] || break
  done
  local found
  found=$("${PYTHON:-python3}" --version 2>&1) || found="no Python"
  fail "Python 3.11 or newer is needed, found ${found}. Install one, or name it: PYTHON=/path/to/python3.12 ./launch.sh"
}

has_nvidia_driver() {
  case ${TSJAX_CUDA:-} in
    1) return 0 ;;
    0) return 1 ;;
    '') command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 ;;
    *) fail "TSJAX_CUDA is '${TSJAX_CUDA}': use 1 or 0" ;;
  esac
}

check_disk() {
  local needed_mb=$1 free_mb place=$venv
  until [[ -d $place ]]; do
    place=$(dirname "$place")
  done
  free_mb=$(df -Pm "$place" | awk 'NR == 2 {print $4}')
  if ((free_mb < needed_mb)); then
    fail "not enough disk: ${needed_mb} MB are needed in ${place}, ${free_mb} MB are free"
  fi
}

# Says in a few words why pip failed, by its log.
why_pip_failed() {
  if grep -qi 'no space left on device' "$log"; then
    echo 'the disk is full'
  elif grep -qiE 'name resolution|failed to establish a new connection|connection (refused|reset|timed out)|network is unreachable|max retries exceeded|no matching distribution found for (hatchling|pip)' "$log"; then
    echo 'the package index cannot be reached: is there a network, or a proxy to set?'
  elif grep -qi 'no matching distribution found' "$log"; then
    grep -i -m 1 'no matching distribution found' "$log" | sed 's/^ERROR: //'
  elif grep -qi 'permission denied' "$log"; then
    echo 'permission denied'
  else
    echo 'pip failed'
  fi
}

# Says how long setting up has taken and what it is at: each second on a terminal, else each ten.
show_progress() {
  local began=$SECONDS ticks=0 at
  while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
    at=$(sed -n -e '/^Obtaining/,$ {' -e 's/^Collecting \([A-Za-z0-9._-]*\).*/collecting \1/p' \
      -e 's/^Installing collected packages.*/installing what was collected/p' -e '}' "$log" | tail -n 1)
    at="$((SECONDS - began)) s: ${at:-preparing}"
    if [[ -n $erase_line ]]; then
      printf '%b  %s' "$erase_line" "$at" >&2
    elif ((ticks % 10 == 0)); then
      printf '  %s\n' "$at" >&2
    fi
    ticks=$((ticks + 1))
  done
}

end_progress() {
  [[ -n $progress ]] || return 0
  # Its end is none of the reader's business, nor is bash's line about it.
  { kill "$progress" && wait "$progress"; } 2>/dev/null || true
  progress=''
  printf '%b' "$erase_line" >&2
}

interrupted() {
  trap '' INT
  end_progress
  if [[ -n $log ]]; then
    distrust_stamp
    rm -f "$log"
  fi
  printf '%blaunch.sh: interrupted\n' "$erase_line" >&2
  exit 130
}

# Where pip stopped while it changed packages, they are no longer what the stamp says.
distrust_stamp() {
  if grep -q '^Installing collected packages' "$log"; then
    rm -f "$stamp"
  fi
}

# Whether the environment has a Python and the whole of pip.
has_pip() {
  [[ ! -e $unfinished ]] && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

# Checks that an environment can be made by a Python, before anything is.
check_place() {
  local python=$1
  # What makes an environment clears its folder first.
  if [[ -e $venv && ! -e $venv/pyvenv.cfg ]] &&
    [[ ! -d $venv || -n $(find "$venv/" -mindepth 1 -maxdepth 1 ! -name bin ! -name include ! -name 'lib*' ! -name 'tsjax-*') ]]; then
    fail "$venv is no virtual environment, and is not empty: name another folder in TSJAX_VENV"
  fi
  check_disk "$2"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"
}

# Makes the environment, at first without pip: the half of one that an interrupt leaves may seem whole.
make_venv() {
  "$1" -m venv --clear --without-pip "$venv" >>"$log" 2>&1 || cannot_make_venv
  touch "$unfinished"
  "$venv/bin/python" -m ensurepip --default-pip >>"$log" 2>&1 || cannot_make_venv
  rm "$unfinished"
}

cannot_make_venv() {
  fail "cannot make a virtual environment in $venv (see $log)"
}

# Whether what is installed, be it older than pyproject.toml asks for, holds all of an extra's modules.
has_modules() {
  local modules='absl.flags, jinja2, matplotlib, tsjax.report, tsjax.study'
  [[ $1 != test* ]] || modules="$modules, chex, equinox, haiku, hypothesis, mypy, pytest, ruff, xdist"
  [[ $1 != *cuda* ]] || modules="$modules, jax_cuda12_plugin"
  "$venv/bin/python" -P -c "import os, sys, $modules
sys.exit(not os.path.samefile(tsjax.__file__, sys.argv[1]))" "$root/tsjax/__init__.py" >/dev/null 2>&1
}

# Makes the environment with an extra of pyproject.toml, unless the one there has it already.
setup() {
  local extra=$1 cuda='' needed_mb=2000 pyproject python='' reason
  if has_nvidia_driver; then
    cuda=,cuda12
    needed_mb=8000
  fi
  pyproject="$(cksum <"$root/pyproject.toml") $root"
  # "test" holds all that "report" does.
  if "$venv/bin/python" -c '' 2>/dev/null &&
    grep -qxF -e "$pyproject $extra$cuda" -e "$pyproject test$cuda" "$stamp" 2>/dev/null; then
    return
  fi
  trap interrupted INT
  if ! has_pip; then
    python=$(find_python) || exit 1
    check_place "$python" "$needed_mb"
  fi
  log=$(mktemp "${TMPDIR:-/tmp}/tsjax-setup-XXXXXX") || fail "cannot write to ${TMPDIR:-/tmp}"
  if [[ -n $python ]]; then
    printf 'Setting up %s (only this once; it takes a few minutes) ...\n' "$venv" >&2
  else
    printf 'Installing in %s what pyproject.toml asks for ...\n' "$venv" >&2
  fi
  show_progress &
  progress=$!
  [[ -z $python ]] || make_venv "$python"
  # By a variable, since pip starts others of its kind, which do not get its flags.
  if PIP_RETRIES=${PIP_RETRIES:-2} "$venv/bin/python" -m pip install --disable-pip-version-check \
    -e "${root}[$extra$cuda]" >>"$log" 2>&1; then
    printf '%s\n' "$pyproject $extra$cuda" >"$stamp"
  else
    reason=$(why_pip_failed)
    distrust_stamp
    if [[ $command == setup ]] || ! has_modules "$extra$cuda"; then
      fail "installing failed: $reason (see $log)"
    fi
    end_progress
    printf 'launch.sh: installing failed (%s): going on with what is installed\n' "$reason" >&2
  fi
  end_progress
  rm -f "$log"
  trap - INT
}

run_script() {
  setup report
  local script=$1
  shift
  exec "$venv/bin/python" "$root/experiments/$script.py" "$@"
}

root=$(folder_of "${BASH_SOURCE[0]}")
venv=${TSJAX_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
# On a CPU, page faults take up to a third of a training step otherwise: docs/performance.md.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
stamp=$venv/tsjax-stamp
unfinished=$venv/tsjax-unfinished
log=''
progress=''
# What empties the line of a terminal, so that progress is shown in one.
erase_line=''
[[ ! -t 2 || ${TERM:-dumb} == dumb ]] || erase_line='\r\033[K'
command=study
if [[ ${1:-} == --help ]]; then
  command=help
elif [[ $# -gt 0 && $1 != --* ]]; then
  command=$1
  shift
fi

case $command in
  study) run_script study "$@" ;;
  train) run_script train "$@" ;;
  prune) run_script prune_unstructured "$@" ;;
  sparse) run_script train_sparse "$@" ;;
  benchmark) run_script benchmark "$@" ;;
  test)
    setup test
    cd "$root"
    exec "$venv/bin/python" -m pytest -n auto "$@"
    ;;
  lint)
    setup test
    cd "$root"
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    "$venv/bin/mypy"
    ;;
  setup) setup report ;;
  help | -h) usage ;;
  *) fail "no command '$command': ./launch.sh help lists them" ;;
esac
