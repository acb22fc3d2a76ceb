#!/usr/bin/env bash
# Train on N GPUs, or without a GPU in N processes over gloo.
#   tools/dist_train.sh CONFIG N [arguments of tools/train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT, the same PORT on each.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
CONFIG=$1
N=$2
exec "$(dirname "$0")/launch.sh" "$N" train.py "$CONFIG" --launcher pytorch "${@:3}"
