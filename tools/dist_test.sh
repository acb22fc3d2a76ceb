#!/usr/bin/env bash
# Evaluate a checkpoint on N GPUs of this machine. Without a GPU, evaluate in N
# processes that communicate over gloo.
#
#   tools/dist_test.sh CONFIG CHECKPOINT N [OPTIONS OF tools/test.py]
#   tools/dist_test.sh CONFIG work_dirs/x/epoch_100.pth 8 --out metrics.json
#
# To evaluate on several machines, run the same command on each of them with
# these environment variables:
#   NNODES         number of machines (default: 1)
#   NODE_RANK      number of this machine, from 0 (default: 0)
#   MASTER_ADDR    address of the machine with NODE_RANK=0 (default: 127.0.0.1)
#   PORT           free port of that machine, the same value on all machines
#                  (default: 29500; any free port if NNODES is 1)
#
# The environment variable PYTHON names the Python interpreter (default: python).
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
N=$3
exec "$(dirname "$0")/launch.sh" "$N" test.py "$CONFIG" "$CHECKPOINT" \
    --launcher pytorch "${@:4}"
