#!/usr/bin/env bash
# Train on a Slurm cluster.
#
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] \
#       [OPTIONS OF tools/train.py]
#   GPUS=16 tools/slurm_train.sh gpu vit configs/quickstart/pretrain.py --resume
#
# WORK_DIR is the value of tools/train.py's option --work-dir.
#
# Environment variables:
#   GPUS            GPUs of the whole job (default: 8)
#   GPUS_PER_NODE   GPUs of each machine (default: 8)
#   CPUS_PER_TASK   CPU cores per GPU (default: 5)
#   SRUN_ARGS       more arguments for srun (default: none)
#   PORT            free port of the first machine (default: 20000 plus the last
#                   four digits of the job's number)
#   PYTHON          Python interpreter (default: python)
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
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
