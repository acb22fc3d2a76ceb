"""What the jobs of the benchmark compute on a GPU, which is a fake one.

The sides are built on it, and their outputs computed. Its tensors have no values, so
what the other libraries read from them is left out.
"""

import argparse

import pytest
import torch
from benchmarks import evaluate, finetune, pretrain, segment, transfer
from helpers.fake_gpu import HostStop
from mmseg.models.decode_heads import decode_head

from mmmaskdistill.engine import prefetching

GPU = torch.device('cuda', 0)
TINY = ('--arch', 'tiny', '--depth', '2', '--img-size', '64', '--batch', '2')
UPERNET = ('--arch', 'tiny', '--depth', '6', '--img-size', '64', '--batch', '2')
TEACHER = ('--teacher', 'test_vit')
# Other libraries index by masks and check values on the way, so the host waits.
WAITS = {
    'pretrain': {'mmpretrain': 'target.hidden.', 'timm': 'target.hidden.'},
    'slide': {'mmseg': 'count_mat'},
}


@pytest.fixture
def gpu(fake_gpu, monkeypatch):
    """A GPU with a GiB of free memory, on which a model replaces its parameters."""
    for name, found in dict(
        mem_get_info=(2**30, 2**31),
        memory_reserved=0,
        memory_allocated=0,
        max_memory_allocated=2**20,
        reset_peak_memory_stats=None,
    ).items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, found=found: found)
    monkeypatch.setattr(
        decode_head, 'accuracy', lambda logits, labels, **kwargs: logits.new_zeros(1)
    )
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with fake_gpu:
        yield fake_gpu
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def parse(job, *words):
    parser = argparse.ArgumentParser()
    job.add_arguments(parser)
    return parser.parse_args([*words, '--device', 'cuda'])


@pytest.mark.parametrize(
    'name, job, words',
    [
        ('pretrain', pretrain, (*TINY, *TEACHER)),
        ('with_cp', pretrain, (*TINY, *TEACHER, '--checkpointing', '--against')),
        ('gather', pretrain, (*TINY, *TEACHER, '--attention=gather', '--against')),
        ('finetune', finetune, (*TINY, '--drop-path', '0.5')),
        ('segment', segment, (*UPERNET, '--drop-path', '0.5')),
        ('slide', evaluate, UPERNET),
        ('whole', evaluate, (*UPERNET, '--mode', 'whole')),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_sides_compute_on_the_gpu(name, job, words, gpu):
    sides = job.build(parse(job, *words), GPU)
    for side_name, side in sides.items():
        tensors = [*side.model.parameters(), *side.model.buffers()]
        assert {tensor.device for tensor in tensors} == {GPU}
        waits = WAITS.get(name, {}).get(side_name)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            gpu.products.clear()
            with gpu.autocast(dtype):
                if waits:
                    with pytest.raises(HostStop, match=waits):
                        side.output()
                    continue
                out = side.output()
            assert out.device == GPU
            assert set(gpu.products) == {dtype}
        if side_name == 'ours':
            gpu.waiting_copies.clear()
            side.output()
            assert not gpu.waiting_copies


def test_steps_with_copies_of_batches_compute_on_the_gpu(gpu, monkeypatch):
    """Only the first way waits for its copies."""
    copies = []
    monkeypatch.setattr(
        transfer.common,
        'as_timed',
        lambda side, *args: side._replace(optimizer=None),
    )
    monkeypatch.setattr(
        prefetching,
        '_one_ahead',
        lambda batches, preprocessor: (
            prefetching._copy(batch, preprocessor) for batch in batches
        ),
    )
    args = parse(transfer, *TINY, *TEACHER)
    for call in transfer.ways(args, GPU).values():
        call()  # Caches are filled.
        gpu.waiting_copies.clear()
        call()
        copies.append(gpu.waiting_copies.total())
    assert copies[0] > 0 and copies[1] == copies[2] == 0
