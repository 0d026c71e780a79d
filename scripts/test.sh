#!/usr/bin/env bash
# Runs the tests; sets everything up on a fresh machine. Arguments go to pytest:
#   bash scripts/test.sh                  the default run: offline, CPU, about two minutes on 2 cores
#   bash scripts/test.sh -m slow          the slow tests
#   bash scripts/test.sh tests/cv_reader  one part
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

# DeepSpeed and torch each start a thread per core; test processes want one each. Tests that wait for commands and
# streams leave a core idle, so there is one process more than the two cores of a small machine.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Tests start hundreds of commands: without kept bytecode, each would compile the project again.
unset PYTHONDONTWRITEBYTECODE
exec python -m pytest --numprocesses "${TEST_PROCESSES:-3}" --dist loadscope "$@"
