"""Errors of a data loader's workers have the message that they were raised with."""

import pytest
from torch.utils.data import DataLoader, Dataset

from mmmaskdistill.datasets import UnreadableImage
from mmmaskdistill.errors import ConfigError

MESSAGE = "the label 'a.png' has the value 9: expected 0 to 3"


class Failing(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise KeyError(9)
        except KeyError as cause:
            raise self.error(MESSAGE) from cause


@pytest.mark.parametrize('error', [ConfigError, UnreadableImage])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_workers_message_is_kept(error, num_workers):
    loader = DataLoader(
        Failing(error), num_workers=num_workers, multiprocessing_context=None
    )
    with pytest.raises(error) as raised:
        next(iter(loader))
    assert str(raised.value) == MESSAGE


def test_unreadable_images_are_mistakes_that_the_user_can_correct():
    assert issubclass(UnreadableImage, ConfigError)
    assert issubclass(UnreadableImage, OSError)
