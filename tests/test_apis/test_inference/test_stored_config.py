"""Configs from checkpoints are read and not run."""

import math
import os
import pickle
import sys
import time

import pytest
import torch
from helpers import trained
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.registry import MODELS as MMSEG_MODELS

from mmmaskdistill.apis import load_model
from mmmaskdistill.apis.inference.stored_config import parse, read_config
from mmmaskdistill.errors import CheckpointError


def test_reads_what_mmengine_writes():
    content = dict(
        model=dict(
            type='A',
            sizes=(1, -2.5, 1e-3, True, None),
            one=(3,),
            none=(),
            lists=[[1, 2], (3, 4), []],
            steps=[dict(type='B', keys={'x.y': dict(lr_mult=0.1), 'a b': 1})],
            empty=dict(),
        ),
        by_number={0: 'a', 1: dict(b=[{'c-d': 1}])},
        limits=[math.inf, -math.inf],
        words='line\nbreak, "quotes" and \\ \'s, Ä',
        long='x' * 300,
    )
    config = Config(content)
    text = config.pretty_text
    assert parse(text, 'a.pth') == content
    assert read_config(text, 'a.pth').model.steps[0].type == 'B'


HOSTILE = {
    'import os': 'Import',
    'import os\nos.system("touch HARM")': 'Import',
    'a = __import__("os").system("touch HARM")': 'Call',
    'a = dict(b=open("HARM", "w"))': 'Call',
    'a = [dict(b=(lambda: 1)())]': 'Call',
    'a = lambda: 1': 'Lambda',
    'a = dict.__subclasses__': 'Attribute',
    'a = dict(b=().__class__.__base__)': 'Attribute',
    'a = [x for x in range(10 ** 12)]': 'ListComp',
    'a = [1] * 10 ** 12': 'BinOp',
    'a = 10 ** 10 ** 10': 'BinOp',
    'a = {x: x for x in (1, 2)}': 'DictComp',
    'a = f"{open(1)}"': 'JoinedStr',
    'a = dict(**globals())': 'Call',
    'a = dict([("b", 1)])': 'Call',
    'a = {**dict(b=1)}': 'Dict',
    'a = {(): 1}': 'Tuple',
    'a = b': 'Name',
    'a = (b := 1)': 'NamedExpr',
    'a = -(-1)': 'UnaryOp',
    'a = -True': 'UnaryOp',
    'a = b"x"': 'Constant',
    'a = ...': 'Constant',
    'a[0] = 1': 'Assign',
    'a.b = 1': 'Assign',
    'a += 1': 'AugAssign',
    'a: int = 1': 'AnnAssign',
    'def f():\n    pass': 'FunctionDef',
    'dict = 1\nwhile True:\n    pass': 'While',
    'eval("1")': 'Expr',
    'a = 1 if 2 else 3': 'IfExp',
    'a = [*(1, 2)]': 'Starred',
    'a = await_ = [print][0]': 'Subscript',
    'a = {1, 2}': 'Set',
}


@pytest.mark.parametrize('text', HOSTILE)
def test_anything_but_plain_data_is_refused_and_named(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as error:
        read_config('first = 1\n' + text, "'a.pth'")
    message = str(error.value)
    assert message.startswith("the config in 'a.pth' is refused: line ")
    assert f'({HOSTILE[text]})' in message
    assert '--trust-checkpoint' in message and '\n' not in message
    assert not list(tmp_path.iterdir()) and time.perf_counter() - start < 1


@pytest.mark.parametrize(
    'text',
    [
        'a = ' + '[' * 50_000 + ']' * 50_000,
        'a = ' + '[' * 150 + ']' * 150,
        'a = ' + 'dict(b=' * 150 + '1' + ')' * 150,
        'a = ' + '-' * 100_000 + '1',
        'a = ' + 'not ' * 100_000 + '1',
        'a = x' + '.y' * 100_000,
        'a = 1' + ' + 1' * 100_000,
        'a = ' + 'lambda: ' * 50_000 + '1',
        'a = ' + '9' * 10_000,
        'a = "\0"',
        'text = 1',
        'a = <class "os">',
        'a = "' + 'x' * 5_000_000 + '"',
        7,
    ],
)
def test_what_would_exhaust_the_parser_is_refused(text):
    with pytest.raises(CheckpointError, match="^the config in 'a.pth' .*--trust"):
        read_config(text, "'a.pth'")


def test_modules_are_not_imported_for_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / 'harmful.py').write_text('open("HARM", "w")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = 'custom_imports = dict(imports=["mmmaskdistill", "harmful"])'
    with pytest.raises(CheckpointError, match='asks to import harmful, .*--trust'):
        read_config(text, "'a.pth'")
    assert not (tmp_path / 'HARM').exists()
    # Whoever has imported it already wants it.
    monkeypatch.setitem(sys.modules, 'harmful', pytest)
    assert read_config(text, "'a.pth'").custom_imports.imports[1] == 'harmful'


def hostile_checkpoint(model, step='dict(type="PackSegInputs")'):
    """A checkpoint whose config is plain data; return the model's weights' file."""
    pipeline = f'[dict(type="LoadImageFromFile"), {step}]'
    meta = dict(
        cfg=f'default_scope = "mmseg"\nmodel = {model}\n'
        f'test_dataloader = dict(dataset=dict(pipeline={pipeline}))'
    )
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), meta=meta), 'a.pth')


@pytest.fixture
def harmful(tmp_path, monkeypatch):
    """A folder with modules that leave a file when they are imported."""
    (tmp_path / 'package').mkdir()
    for name in ('harmful', 'package/__init__', 'package/registry'):
        (tmp_path / f'{name}.py').write_text('open("HARM", "w")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / 'HARM').exists()


@pytest.mark.parametrize(
    'model',
    [
        'dict(type="os.system", command="touch HARM")',
        'dict(type="subprocess.check_output", args=["touch", "HARM"])',
        'dict(type="mmengine.config.config.os.system", command="touch HARM")',
        'dict(type="torch.os.system", command="touch HARM")',
        'dict(type="mmseg.apis.inference.warnings.os.system", command="touch HARM")',
        'dict(type="torch.hub.load", repo_or_dir="a/b", model="c")',
        'dict(type="torch.nn.Module.dump_patches")',
        'dict(type="package.Part")',
        'dict(type="mmpretrain.AutoModelForCausalLM", name_or_path="a/b")',
        'dict(type="mmpretrain.HuggingFaceClassifier", model_name="a/b")',
        *(
            f'dict(type="EncoderDecoder", decode_head=1, backbone=dict(type="{name}"))'
            for name in ('harmful', 'os.abort', 'builtins.eval', 'package.Part')
        ),
    ],
)
def test_a_config_names_no_other_objects_than_parts(harmful, model):
    hostile_checkpoint(model)
    with pytest.raises(CheckpointError, match="config in 'a.pth' has type=.*--trust"):
        load_model('a.pth', device='cpu')


@pytest.mark.parametrize(
    'step',
    [
        # mmpretrain evaluates the dtype.
        'dict(type="mmpretrain.torchvision/ConvertImageDtype", '
        'dtype="os.system(\'touch HARM\')")',
        'dict(type="mmpretrain.torchvision/Lambda", lambd=1)',
        'dict(type="Albu", transforms=[dict(type="load", filepath_or_buffer="a")])',
        'dict(type="TestTimeAug", transforms=[[dict(type="os.getcwd")]])',
        'dict(type="harmful")',
    ],
)
def test_neither_does_its_pipeline(harmful, step):
    config = trained.segmentation()
    trained.write(config, 'b.pth')
    content = torch.load('b.pth')
    text = "dict(type='PackSegInputs')"
    assert text in content['meta']['cfg']
    content['meta']['cfg'] = content['meta']['cfg'].replace(text, step)
    torch.save(content, 'a.pth')
    with pytest.raises(CheckpointError, match="config in 'a.pth' has type=.*--trust"):
        load_model('a.pth', device='cpu')


class Harm:
    def __reduce__(self):
        return open, ('HARM', 'w')


@pytest.mark.parametrize(
    'name', ['weights.pkl', './weights.PICKLE', 'http://127.0.0.1:9/w', 'weights.yaml']
)
def test_a_config_opens_no_other_files(harmful, name):
    hostile_checkpoint(f'dict(type="EncoderDecoder", decode_head=dict(x=["{name}"]))')
    message = f"config in 'a.pth' names the file '{name}' in its model.*--trust"
    with pytest.raises(CheckpointError, match=message):
        load_model('a.pth', device='cpu')


@pytest.mark.parametrize('name', ['weights.pkl', 'missing.npy'])
def test_files_of_class_weights_are_not_read(harmful, name):
    # mmseg's losses would read them.
    with open('weights.pkl', 'wb') as opened:
        pickle.dump(Harm(), opened)
    config = trained.segmentation()
    trained.write(config, 'b.pth')
    loss = dict(type='CrossEntropyLoss', class_weight=name)
    config.model.decode_head.loss_decode = loss
    content = torch.load('b.pth')
    content['meta']['cfg'] = config.pretty_text
    torch.save(content, 'a.pth')
    assert load_model('a.pth', device='cpu').classes == trained.CLASSES


@pytest.mark.parametrize(
    'text',
    [
        'default_scope = "package"\nmodel = dict(type="Part")',
        'model = dict(type="EncoderDecoder", decode_head=dict(_scope_="package"))',
        'model = dict(type="EncoderDecoder", decode_head=dict(_scope_=7))',
    ],
)
def test_scopes_import_nothing(harmful, text):
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), meta=dict(cfg=text)), 'a.pth')
    with pytest.raises(CheckpointError, match="'a.pth' has the scope .*--trust-check"):
        load_model('a.pth', device='cpu')


def test_the_restriction_ends_with_the_loading(harmful):
    hostile_checkpoint('dict(type="os.system", command="touch HARM")')
    with pytest.raises(CheckpointError):
        load_model('a.pth', device='cpu')
    assert MODELS.get('torch.nn.Linear') is torch.nn.Linear
    assert MODELS.get('os.getcwd') is os.getcwd


def test_a_class_of_ones_own_may_be_named(harmful, monkeypatch):
    @MODELS.register_module()
    class OwnSegmentor(MMSEG_MODELS.get('EncoderDecoder')):
        pass

    config = trained.segmentation()
    config.model.type = 'OwnSegmentor'
    path = trained.write(config, 'own.pth')
    assert type(load_model(path, device='cpu').model) is OwnSegmentor
    # mmengine writes full paths for configs of Python's own syntax.
    config.model.type = 'mmseg.models.segmentors.encoder_decoder.EncoderDecoder'
    config.model.backbone.type = 'mmmaskdistill.models.backbones.MaskDistillViT'
    path = trained.write(config, 'path.pth')
    assert load_model(path, device='cpu').classes == trained.CLASSES
    MODELS.module_dict.pop('OwnSegmentor')


def test_a_trusted_config_is_run(tmp_path):
    text = f'a = sum([1, 1])\nopen({str(tmp_path / "ran")!r}, "w")'
    with pytest.raises(CheckpointError, match='Call'):
        read_config(text, "'a.pth'")
    assert read_config(text, "'a.pth'", trust=True).a == 2
    assert (tmp_path / 'ran').exists()
    with pytest.raises(CheckpointError, match='cannot be run .*division'):
        read_config('a = 1 / 0', "'a.pth'", trust=True)
