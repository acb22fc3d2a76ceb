#!/usr/bin/env bash
# The whole test suite in an environment of its own, from a fresh clone.
#
#   bash tools/run_tests.sh [arguments of pytest]
#
#   PYTHON=python3.12    the Python to make the environment from
#   TOOLKITS=onedl       test against the OneDL forks (default: official)
#
# The environment is kept and used again until setup.py changes.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TOOLKITS=${TOOLKITS:-official}
case $TOOLKITS in
    official) venv=.venv-tests ;;
    onedl) venv=.venv-tests-onedl ;;
    *) echo "TOOLKITS is '$TOOLKITS', expected official or onedl" >&2; exit 2 ;;
esac

wanted="$("$PYTHON" --version) $(cat setup.py mmmaskdistill/version.py | cksum)"
stamp=$venv/installed
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "Installing into $venv (this happens once)"
    "$PYTHON" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --upgrade pip
    MMMASKDISTILL_TOOLKITS=$TOOLKITS \
        "$venv/bin/python" -m pip install -e '.[lite,demo,tests]'
    echo "$wanted" > "$stamp"
fi

exec "$venv/bin/python" -m pytest tests -v --durations=10 "$@"
