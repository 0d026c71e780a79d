#!/usr/bin/env bash
# Runs the tests; sets everything up on a fresh machine. Arguments go to pytest:
#   bash scripts/test.sh                  the default run: offline, CPU, under two minutes on 2 cores
#   bash scripts/test.sh -m slow          the slow tests
#   bash scripts/test.sh tests/cv_reader  one part
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

# DeepSpeed and torch each start a thread per core; two test processes on two cores want one each.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest --numprocesses "${TEST_PROCESSES:-2}" --dist loadscope "$@"
