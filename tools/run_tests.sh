#!/usr/bin/env bash
# Run the test suite in an environment of its own, from a fresh clone.
#
#   bash tools/run_tests.sh [arguments of pytest]
#
#   bash tools/run_tests.sh tests/test_engine -x     # one folder, stop at a failure
#   bash tools/run_tests.sh -m environment           # build, install and use a wheel
#
#   PYTHON=python3.12    the Python to make the environment from (default: python3)
#   TOOLKITS=onedl       test with the OneDL forks (default: official)
#   VERSIONS=lowest      install the lowest version of each requirement that setup.py
#                        allows, and run a short part of the suite (default: newest)
#
# The environment is kept, and used again until the requirements change.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TOOLKITS=${TOOLKITS:-official}
VERSIONS=${VERSIONS:-newest}
venv=.venv-tests
case $TOOLKITS in
    official) ;;
    onedl) venv+=-onedl ;;
    *) echo "TOOLKITS is '$TOOLKITS', expected official or onedl" >&2; exit 2 ;;
esac
case $VERSIONS in
    newest) ;;
    lowest) venv+=-lowest ;;
    *) echo "VERSIONS is '$VERSIONS', expected newest or lowest" >&2; exit 2 ;;
esac
export MMMASKDISTILL_TOOLKITS=$TOOLKITS

install() {
    "$PYTHON" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --upgrade pip
    if [ "$VERSIONS" = newest ]; then
        "$venv/bin/python" -m pip install -e '.[lite,demo,tests]'
    else
        # pip cannot choose the lowest versions, uv can.
        "$venv/bin/python" -m pip install uv
        "$venv/bin/uv" pip install --python "$venv/bin/python" \
            --resolution lowest-direct -e '.[lite]'
        "$venv/bin/uv" pip install --python "$venv/bin/python" pytest pyyaml
    fi
}

wanted="$("$PYTHON" --version) \
$(cat setup.py pyproject.toml mmmaskdistill/version.py | cksum)"
if [ "$(cat "$venv/installed" 2> /dev/null)" != "$wanted" ]; then
    echo "Installing into $venv (this happens once)"
    install
    echo "$wanted" > "$venv/installed"
fi

if [ "$VERSIONS" = lowest ] && [ $# -eq 0 ]; then
    # What depends most on the versions of other packages.
    set -- tests/test_compat tests/test_models/test_backbones \
        tests/test_models/test_heads tests/test_models/test_normalizers.py \
        tests/test_models/test_layers/test_memory_saving.py \
        tests/test_models/test_selfsup/test_mask_distill.py \
        tests/test_models/test_segmentors/test_uper_head.py \
        tests/test_models/test_teachers/test_timm_teacher.py \
        tests/test_models/test_teachers/test_cached_teacher.py \
        tests/test_models/test_plugging_in.py \
        tests/test_engine/test_layer_decay.py tests/test_engine/test_compiling.py \
        tests/test_datasets tests/test_configs/test_recipe_runs.py
fi
if [ "$VERSIONS" = newest ] && [ $# -eq 0 ]; then
    # The whole suite: a test runs on one core, so each core gets tests of its own.
    set -- -n "$(nproc)" --dist loadfile
fi
exec "$venv/bin/python" -m pytest -v --durations=10 -m 'not environment' "$@"
