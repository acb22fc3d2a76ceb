#!/usr/bin/env bash
# Train on N GPUs of this machine. Without a GPU, train in N processes that
# communicate over gloo.
#
#   tools/dist_train.sh CONFIG N [OPTIONS OF tools/train.py]
#   tools/dist_train.sh configs/quickstart/pretrain.py 8 --resume
#
# To train on several machines, run the same command on each of them with these
# environment variables:
#   NNODES         number of machines (default: 1)
#   NODE_RANK      number of this machine, from 0 (default: 0)
#   MASTER_ADDR    address of the machine with NODE_RANK=0 (default: 127.0.0.1)
#   PORT           free port of that machine, the same value on all machines
#                  (default: 29500; any free port if NNODES is 1)
#
# The environment variable PYTHON names the Python interpreter (default: python).
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
CONFIG=$1
N=$2
exec "$(dirname "$0")/launch.sh" "$N" train.py "$CONFIG" --launcher pytorch "${@:3}"
