import sys
from importlib import import_module
from pathlib import Path

# Python puts this folder on the path when it runs it. The package, the benchmarks and
# command_line.py lie in the folders above.
sys.path[:1] = map(str, Path(__file__).resolve().parents[1:3])
sys.exit(import_module('gpu_report.command').main())
