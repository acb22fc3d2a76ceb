"""The jobs of tools/analysis_tools/benchmark.py, one module per job."""

import os
import sys

# Messages of torch's profiler would appear between the rows of the tables.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')

# command_line.py is in tools/.
sys.path.append(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
