#!/usr/bin/env bash
# Train on a slurm cluster.
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of tools/train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5, for each GPU), SRUN_ARGS, PORT.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
shift 3
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    set -- --work-dir "$@"
fi
exec "$(dirname "$0")/slurm.sh" "$PARTITION" "$JOB_NAME" \
    train.py "$CONFIG" --launcher pytorch "$@"
