"""Look at each prediction of a test once, in one process or in several."""

from collections.abc import Sequence
from typing import Any

from mmengine.dist import collect_results, get_rank, get_world_size, is_main_process


class Collector:
    """What stands among the metrics of an evaluator and returns no metric.

    mmengine's metrics keep a result for each image until the test ends. A collector
    adds up what it needs while the test runs, and its processes are put together at
    the end. The sampler gives some images to a second process if their number is no
    multiple of the number of processes; they count once.

    A subclass implements :meth:`add`, and :meth:`state` and :meth:`finish` if its
    processes have something to put together.

    Args:
        size (int): Number of images of the data set.

    Attributes:
        dataset_meta (dict | None): Meta information of the data set, such as
            ``classes``.
    """

    def __init__(self, size: int):
        self.size = size
        self.dataset_meta = None
        self._seen = 0

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty if the data set has none."""
        return [str(name) for name in (self.dataset_meta or {}).get('classes') or ()]

    def add(self, position: int, sample: dict) -> None:
        """Look at a prediction.

        Args:
            position (int): Position of the image in the order of the sampler.
            sample (dict): The prediction, as a dict, with the label if there is one.
        """
        raise NotImplementedError

    def state(self) -> Any:
        """Return what this process has found, to be sent to the first process."""

    def finish(self, states: list) -> None:
        """Put the processes together; only the first process calls this.

        Args:
            states (list): The state of each process.
        """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Look at the predictions of a batch.

        Args:
            data_batch (Any): The batch, which is not used.
            data_samples (Sequence[dict]): The predictions.
        """
        rank, processes = get_rank(), get_world_size()
        for sample in data_samples:
            # The sampler deals the images out to the processes in turn.
            position = self._seen * processes + rank
            self._seen += 1
            if position < self.size:
                self.add(position, sample)

    def evaluate(self, size: int) -> dict:
        """Put the processes together at the end of the test.

        Args:
            size (int): Number of images of the data set, which is not used.

        Returns:
            dict: No metrics.
        """
        states = collect_results([self.state()], get_world_size(), 'cpu')
        if is_main_process():
            self.finish(states)
        self._seen = 0
        return {}
