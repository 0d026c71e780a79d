#!/usr/bin/env bash
# Runs the learning study: made clips, one model per seed, all ways to choose patches, one page.
#   bash examples/learning_study/run.sh                 the full study, about 80 processor minutes
#   bash examples/learning_study/run.sh --quick         a small one, to see that it runs
#   bash examples/learning_study/run.sh --hours 1.2     as many training steps as fit into the time
# OUT= is the folder of everything (default outputs/learning_study); started again, it continues.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh
exec python -m llava.eval.study --out "${OUT:-outputs/learning_study}" "$@"
