"""Settings that change during a run."""

import pytest

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.schedules import Ramp, parse_ramp


def test_ramp_is_linear_between_its_two_ends():
    ramp = Ramp(4, 10, begin=0.2, until=0.8)
    values = [ramp(p) for p in (0, 0.2, 0.3, 0.5, 0.8, 1)]
    assert values == pytest.approx([4, 4, 5, 7, 10, 10])
    falling = Ramp(1, 0)
    assert [falling(p) for p in (0, 0.25, 1)] == [1, 0.75, 0]


def test_a_number_stays_the_same():
    ramp = parse_ramp(0.3, 'weight')
    assert {ramp(p) for p in (0, 0.5, 1)} == {0.3}
    assert repr(ramp) == '0.3'


@pytest.mark.parametrize(
    'value, words',
    [
        (-1, 'weight=-1: expected 0 or more'),
        (float('nan'), 'weight=nan: expected 0 or more'),
        ('much', "weight='much': 'much' is not a number"),
        (True, 'weight=True: True is not a number'),
        (dict(start=1), 'expected a number, or a dict with start and end'),
        (dict(start=1, stop=2), 'expected a number, or a dict with start and end'),
        (dict(start=1, end=2, begin=0.5, until=0.5), '0 <= begin < until <= 1'),
        (dict(start=1, end=2, until=1.5), '0 <= begin < until <= 1'),
    ],
)
def test_other_values_are_refused(value, words):
    with pytest.raises(ConfigError, match='(?s)' + words.replace('?', r'\?')):
        parse_ramp(value, 'weight')
