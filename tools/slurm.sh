#!/usr/bin/env bash
# Run a tool on a Slurm cluster. slurm_train.sh and slurm_test.sh call this
# script; their help describes the environment variables.
#
#   tools/slurm.sh PARTITION JOB_NAME TOOL [ARGUMENTS OF THE TOOL]
#
# Slurm starts one task on each machine, and the task starts torchrun. A job is
# therefore launched in the same way with and without Slurm.
set -euo pipefail

PARTITION=$1
JOB_NAME=$2
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
GPUS_PER_NODE=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "error: GPUS=$GPUS is not a multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 2
fi
export LAUNCH="$(cd "$(dirname "$0")" && pwd)/launch.sh" GPUS_PER_NODE

# The default port is derived from the job's number, so that jobs that share a
# machine use different ports.
# shellcheck disable=SC2016,SC2086
exec srun --partition="$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --nodes=$((GPUS / GPUS_PER_NODE)) \
    --ntasks-per-node=1 \
    --cpus-per-task=$((GPUS_PER_NODE * ${CPUS_PER_TASK:-5})) \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    bash -c '
        export NNODES=$SLURM_NNODES NODE_RANK=$SLURM_NODEID
        export PORT=${PORT:-$((20000 + SLURM_JOB_ID % 10000))}
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_ADDR
        exec "$LAUNCH" "$GPUS_PER_NODE" "$@"
    ' bash "${@:3}"
