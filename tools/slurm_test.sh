#!/usr/bin/env bash
# Evaluate on a slurm cluster.
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5, for each GPU), SRUN_ARGS, PORT.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
exec "$(dirname "$0")/slurm.sh" "$1" "$2" \
    test.py "$3" "$4" --launcher pytorch "${@:5}"
