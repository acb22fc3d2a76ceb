#!/usr/bin/env bash
# Start N processes of one of the tools; dist_*.sh and slurm_*.sh call it.
#   tools/launch.sh N TOOL [arguments of the tool]
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
    # torchrun finds a free port, so runs on one machine do not collide.
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi

# torchrun's default of one thread a process leaves cores idle without a GPU.
if [ -z "${OMP_NUM_THREADS:-}" ] && ! nvidia-smi -L > /dev/null 2>&1; then
    CORES=$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)
    OMP_NUM_THREADS=$((CORES / N > 0 ? CORES / N : 1))
    export OMP_NUM_THREADS
    # Threads that spin while they wait starve whatever shares the cores.
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
fi

PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}" \
    exec "$PYTHON" -m torch.distributed.run "${RENDEZVOUS[@]}" \
    --nproc_per_node "$N" "$TOOLS/$TOOL" "${@:3}"
