import pytest
from mmengine.config import Config

from mmmaskdistill.apis.configs import change_config
from mmmaskdistill.apis.option_values import read_value
from mmmaskdistill.errors import ConfigError


@pytest.mark.parametrize(
    'text',
    [
        '/media/my drive/x',
        ' a ',
        '/data/a,b/c',
        'runs (old)/x',
        '/data/[2024] images/(1)',
        '(a) and (b)',
        '[a] b [c]',
        "/home/Bob's/x",
        '/data/5" screens/x',
        'C:\\my data\\x, y',
        '/data/run (1/x',
        'a=b',
        '2024_01',
        '1_000',
        '12ab',
        'one, two three',
        's3://bucket/a b.pth',
        '',
    ],
)
def test_strings_stay_as_they_are(text):
    assert read_value(text) == text
    assert read_value(text, 'train_dataloader.dataset.data_root') == text


@pytest.mark.parametrize(
    'text, value',
    [
        ('3', 3),
        ('-3', -3),
        ('1e-4', 1e-4),
        ('.5', 0.5),
        ('inf', float('inf')),
        ('True', True),
        ('false', False),
        ('None', None),
        ('1,2,3', [1, 2, 3]),
        ('0.9, 0.98', [0.9, 0.98]),
        ('a,b', ['a', 'b']),
        ('cat, dog', ['cat', 'dog']),
        ('[a, b, c]', ['a', 'b', 'c']),
        ('(0.9,0.98)', (0.9, 0.98)),
        ('(1,)', (1,)),
        ('[]', []),
        ('()', ()),
        ("[dict(type='A', x=1), b]", [{'type': 'A', 'x': 1}, 'b']),
        ('[(1, 2), [a, b], c]', [(1, 2), ['a', 'b'], 'c']),
        ('[/media/my drive/x, /data/y]', ['/media/my drive/x', '/data/y']),
        ('["a, b", \'c\']', ['a, b', 'c']),
        ("[Bob's cat,dog]", ["Bob's cat", 'dog']),
        ('(1,2),(3,4)', [(1, 2), (3, 4)]),
        ("'3'", '3'),
        ('"a,b"', 'a,b'),
        ("'/media/my drive/x'", '/media/my drive/x'),
        (
            "dict(type='A', size=(1, 2), b=dict(c=[None, 1e-3]))",
            dict(type='A', size=(1, 2), b=dict(c=[None, 1e-3])),
        ),
        ("{'a': dict(b=-1)}", dict(a=dict(b=-1))),
        ('dict(a=open("x"))', 'dict(a=open("x"))'),
        ('{not, python}', '{not, python}'),
    ],
)
def test_values_are_read(text, value):
    read = read_value(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    'key, text, value',
    [
        ('train_dataloader.dataset.data_root', '001', '001'),
        ('work_dir', '2024', '2024'),
        ('model.backbone.init_cfg.checkpoint', '1e5', '1e5'),
        ('train_dataloader.dataset.data_prefix.img_path', 'a,b', 'a,b'),
        ('train_dataloader.dataset.ann_file', '[a.txt, b.txt]', ['a.txt', 'b.txt']),
        ('load_from', 'None', None),
        ('model.backbone.drop_path', '0.1', 0.1),
    ],
)
def test_paths_are_strings(key, text, value):
    assert read_value(text, key) == value


def config():
    return Config(
        dict(
            model=dict(arch='base', init_cfg=None, depth=12, size=(8, 8)),
            scheduler=[dict(end=1), dict(end=2)],
            clip=False,
        )
    )


@pytest.mark.parametrize(
    'options, key, value',
    [
        (['model.arch.dims=2', 'model.arch.heads=1'], 'arch', dict(dims=2, heads=1)),
        (['model.arch=dict(dims=2)'], 'arch', dict(dims=2)),
        (['model.init_cfg.type=A', 'model.init_cfg.b=c d'], 'init_cfg', None),
        (['model.depth=3'], 'depth', 3),
    ],
)
def test_dicts_replace_other_values(options, key, value):
    cfg = config()
    change_config(cfg, options)
    assert cfg.model[key] == (value or dict(type='A', b='c d'))


def test_items_of_lists_and_deletions():
    cfg = config()
    change_config(cfg, ['scheduler.1.end=5', 'model.type=B', 'model._delete_=True'])
    assert [part.end for part in cfg.scheduler] == [1, 5]
    assert cfg.model == dict(type='B')


@pytest.mark.parametrize(
    'option, message',
    [
        (
            'drive/x',
            "--cfg-options 'drive/x' is not of the form KEY=VALUE: put quotes around "
            'a value with spaces, and no spaces around the "="',
        ),
        (
            'scheduler.end=3',
            '--cfg-options scheduler.end does not exist: scheduler is a list of 2 '
            'items, which are named scheduler.0 and so on',
        ),
        (
            'scheduler.2.end=3',
            '--cfg-options scheduler.2.end does not exist: scheduler is a list of 2 '
            'items, which are named scheduler.0 and so on',
        ),
        (
            'model.depth.a=3',
            '--cfg-options model.depth.a does not exist: model.depth is the number 12',
        ),
        (
            'model.size.0=3',
            '--cfg-options model.size.0 cannot be set alone: give all of model.size, '
            'which is (8, 8)',
        ),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ConfigError) as error:
        change_config(config(), [option])
    assert str(error.value) == message


def test_blanks_around_the_equals_sign_belong_to_neither_side():
    cfg = Config(dict(train_cfg=dict(max_iters=1), work_dir='a'))
    change_config(cfg, ['train_cfg.max_iters = 3', 'work_dir = b c'])
    assert cfg.to_dict() == dict(train_cfg=dict(max_iters=3), work_dir='b c')
    with pytest.raises(ConfigError, match='not of the form KEY=VALUE'):
        change_config(cfg, [' = 3'])
