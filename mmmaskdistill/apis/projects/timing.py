"""Measure how long a step of a training takes on this machine."""

import time

import torch
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope

from mmmaskdistill.apis.pretraining import make_teachers_random
from mmmaskdistill.registry import MODELS

LOADED = 4
STEPS = 3


def seconds_per_step(config: Config) -> float:
    """Measure a step of a training: loading, forward, backward and update.

    The model has random weights, which takes the same time. On a GPU, the processes
    that load work at the same time as the model.

    Args:
        config (Config): The config of the training.

    Returns:
        float: Seconds.
    """
    init_default_scope(config.default_scope)
    loader = config.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    begin = time.perf_counter()
    samples = [dataset[k % len(dataset)] for k in range(LOADED)]
    loading = (time.perf_counter() - begin) / LOADED * loader.batch_size
    samples = [samples[k % LOADED] for k in range(loader.batch_size)]
    by_epoch = config.default_scope == 'mmpretrain'
    batch = (default_collate if by_epoch else pseudo_collate)(samples)

    cfg = config.model.copy()
    make_teachers_random(cfg.get('teacher'))
    if config.get('data_preprocessor') is not None:
        cfg.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(cfg)
    gpu = torch.cuda.is_available()
    device = 'cuda' if gpu else 'cpu'
    if not gpu:
        from mmengine.model import revert_sync_batchnorm

        model = revert_sync_batchnorm(model)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
            loss, _ = model.parse_losses(losses)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if gpu:
            torch.cuda.synchronize()

    step()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    training = (time.perf_counter() - begin) / STEPS
    workers = loader.num_workers
    if gpu and workers:
        return max(training, loading / workers)
    return training + loading
