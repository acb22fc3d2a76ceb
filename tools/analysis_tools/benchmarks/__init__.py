"""The jobs of tools/analysis_tools/benchmark.py, one module per job."""

import os

# Messages of torch's profiler would appear between the rows of the tables.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')
