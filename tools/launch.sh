#!/usr/bin/env bash
# Start N processes of a tool on this machine with torchrun. The scripts
# dist_*.sh and slurm.sh call it; their help describes the environment variables.
#
#   tools/launch.sh N TOOL [ARGUMENTS OF THE TOOL]
set -euo pipefail

N=$1
TOOL=$2
TOOLS=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python}
NNODES=${NNODES:-1}

case $N in
    ''|0|*[!0-9]*)
        echo "error: the number of processes must be a positive number, not '$N'" >&2
        exit 2
        ;;
esac

if [ "$NNODES" -eq 1 ] && [ -z "${PORT:-}" ]; then
    # With --standalone, torchrun chooses a free port. Several runs on the same
    # machine then do not compete for one.
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi

# By default, torchrun gives each process one thread. Without a GPU, this would
# leave most CPU cores idle.
if [ -z "${OMP_NUM_THREADS:-}" ] && ! nvidia-smi -L > /dev/null 2>&1; then
    CORES=$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)
    OMP_NUM_THREADS=$((CORES / N > 0 ? CORES / N : 1))
    export OMP_NUM_THREADS
    # With the active policy, waiting threads keep their cores busy and slow
    # down the other processes on the same cores.
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
fi

PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}" \
    exec "$PYTHON" -m torch.distributed.run "${RENDEZVOUS[@]}" \
    --nproc_per_node "$N" "$TOOLS/$TOOL" "${@:3}"
