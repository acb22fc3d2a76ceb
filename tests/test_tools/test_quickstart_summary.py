"""The summary of the demonstration."""

import json

import numpy as np
import pytest
from PIL import Image
from quickstart_summary import photograph_share


def test_share_of_the_photograph_that_is_predicted_as_its_class(tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/classes.json').write_text(
        json.dumps(dict(classes=['grass', 'motorcycle'], palette=[]))
    )
    (tmp_path / 'photograph/labels').mkdir(parents=True)
    labels = Image.fromarray(np.uint8([[0, 1, 1], [1, 1, 0]])).convert('P')
    labels.putpalette([0, 0, 0, 9, 9, 9])
    labels.save(tmp_path / 'photograph/labels/motorcycle_right.png')
    assert photograph_share(tmp_path) == pytest.approx(200 / 3)
    assert photograph_share(tmp_path, 'grass') == pytest.approx(100 / 3)
    with pytest.raises(ValueError):
        photograph_share(tmp_path, 'cat')
