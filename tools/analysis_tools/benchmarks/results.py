"""The JSON file of a job's measurements."""

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Results:
    """Write the measurements of a job to its file.

    Jobs of several measurements write after each of them, so that a job that is
    stopped leaves those that are complete.

    Attributes:
        job (str): Name of the job.
        options (dict): Its options, of which ``out`` is the path of the file or None.
    """

    job: str
    options: dict

    def __call__(self, figures: dict) -> None:
        """Write measurements in place of those that were written before.

        Args:
            figures (dict): The content of the file, except for job and options.
        """
        path = self.options['out']
        if path is None:
            return
        content = dict(job=self.job, options=self.options, **figures)
        with open(path + '.tmp', 'w') as file:
            json.dump(content, file, indent=2)
        os.replace(path + '.tmp', path)
