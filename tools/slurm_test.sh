#!/usr/bin/env bash
# Evaluate a checkpoint on a Slurm cluster.
#
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [OPTIONS OF tools/test.py]
#   GPUS=4 tools/slurm_test.sh gpu vit CONFIG CHECKPOINT --out metrics.json
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

if [ $# -lt 4 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
exec "$(dirname "$0")/slurm.sh" "$1" "$2" \
    test.py "$3" "$4" --launcher pytorch "${@:5}"
