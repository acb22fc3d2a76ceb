import os

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # its notes hide the tables
