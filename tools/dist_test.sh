#!/usr/bin/env bash
# Evaluate on N GPUs, or without a GPU in N processes over gloo.
#   tools/dist_test.sh CONFIG CHECKPOINT N [arguments of tools/test.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT, the same PORT on each.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
N=$3
exec "$(dirname "$0")/launch.sh" "$N" test.py "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
