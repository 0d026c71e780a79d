#!/usr/bin/env bash
# From videos to a trained and evaluated model, and a report, on any machine with Python 3.10 to 3.13 (no GPU):
#   bash examples/quickstart/run.sh                       on clips that it makes itself
#   bash examples/quickstart/run.sh VIDEO_OR_FOLDER ...   on your own videos (any container or codec)
#   bash examples/quickstart/run.sh DATASET.json          on a raw training file (VIDEO_ROOT= for relative paths)
# OUT     output folder (default outputs/quickstart in the project)
# STEPS   optimiser steps of the training
# NATIVE  auto (default): build the exact reader if a C compiler and nasm are there; 0: do not; 1: or fail
# The last printed line is the path of report.html.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; fi
quickstart="$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
NATIVE="${NATIVE:-auto}"
source "$quickstart/../../scripts/environment.sh"
exec python "$quickstart/quickstart.py" "$@"
