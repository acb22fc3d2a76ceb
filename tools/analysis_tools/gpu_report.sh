#!/usr/bin/env bash
# Measure everything that a GPU tells about this project, within some minutes and
# without a network, and write a report for docs/benchmarks.md. See --help.
#
#   bash tools/analysis_tools/gpu_report.sh [--minutes 20] [--steps 1 2 ...]
#   bash tools/analysis_tools/gpu_report.sh --device cpu --tiny
#   bash tools/analysis_tools/gpu_report.sh --wheels
#
# The environment variable PYTHON names the interpreter (default: python3). This
# project and pytest must be installed in its environment, see --wheels.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" tools/analysis_tools/gpu_report "$@"
