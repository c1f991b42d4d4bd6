#!/usr/bin/env bash
# Sets up tsjax in a virtual environment of its own, and runs the study, its parts, or the tests.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: ./launch.sh [command] [flags]

commands
  study     train, prune, fine-tune, count, time; ends with a report (the default)
  train     train a forecaster and test it
  prune     prune a trained forecaster (--checkpoint=RUN_FOLDER), or train one first
  sparse    train a forecaster sparse from its first step, beside a dense one
  benchmark time the models, dense and cut, beside PyTorch where it is installed
  test      run the test suite; arguments go to pytest
  lint      check style and types
  setup     only set up
  help      this text; './launch.sh study --help' lists the flags of a command

The first call makes a virtual environment in .venv and installs tsjax there, with CUDA where an
NVIDIA driver answers. Later calls install nothing until pyproject.toml changes.

environment
  PYTHON          which Python to use (3.11 or newer)
  TSJAX_VENV      where the virtual environment lies (.venv)
  TSJAX_DATA_DIR  folder with the CSV files (ETTh1.csv, ...), as --data_dir
  TSJAX_CUDA      1 or 0: install CUDA support whatever the driver says
  GLIBC_TUNABLES  unset, arrays lie on huge pages (glibc.malloc.hugetlb=1), where Linux has them

examples
  ./launch.sh
  ./launch.sh study --dataset=ETTh1 --data_dir=DIR --pred_len=96
  ./launch.sh prune --checkpoint=runs/RUN --densities=0.5,0.1
TEXT
}

fail() {
  printf 'launch.sh: %s\n' "$*" >&2
  exit 1
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

# Says in one line why pip failed; its whole output is in the log.
explain_pip() {
  local log=$1 reason='pip failed'
  if grep -qi 'no space left on device' "$log"; then
    reason='the disk is full'
  elif grep -qiE 'name resolution|failed to establish a new connection|connection (refused|reset|timed out)|network is unreachable|max retries exceeded|no matching distribution found for (hatchling|pip)' "$log"; then
    reason='the package index cannot be reached: is there a network, or a proxy to set?'
  elif grep -qi 'no matching distribution found' "$log"; then
    reason=$(grep -i -m 1 'no matching distribution found' "$log" | sed 's/^ERROR: //')
  elif grep -qi 'permission denied' "$log"; then
    reason='permission denied'
  fi
  fail "installing failed: ${reason} (see ${log})"
}

# Makes the environment with an extra of pyproject.toml, unless the one there has it already.
setup() {
  local extra=$1 cuda='' needed_mb=2000 pyproject python log
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
  python=$(find_python)
  check_disk "$needed_mb"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"
  log=$(mktemp "${TMPDIR:-/tmp}/tsjax-setup-XXXXXX.log") || fail "cannot write to ${TMPDIR:-/tmp}"
  printf 'Setting up %s (only this once; it takes a few minutes) ...\n' "$venv" >&2
  rm -f "$stamp"
  # An interrupted venv can hold a Python without pip.
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv" >"$log" 2>&1 ||
    fail "cannot make a virtual environment in $venv (see $log)"
  "$venv/bin/python" -m pip install --disable-pip-version-check --retries 2 \
    -e "${root}[$extra$cuda]" >"$log" 2>&1 || explain_pip "$log"
  rm -f "$log"
  printf '%s\n' "$pyproject $extra$cuda" >"$stamp"
}

run_script() {
  setup report
  local script=$1
  shift
  exec "$venv/bin/python" "$root/experiments/$script.py" "$@"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${TSJAX_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
# On a CPU, page faults take up to a third of a training step otherwise: docs/performance.md.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
stamp=$venv/tsjax-stamp
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
  *)
    usage >&2
    fail "no command '$command'"
    ;;
esac
