"""A runner whose killed and resumed runs end where uninterrupted ones do."""

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmmaskdistill.datasets.draws import (
    DrawBatchSampler,
    SeededDataset,
    seed_generators,
)
from mmmaskdistill.registry import HOOKS, RUNNERS

from .checkpoints import (
    adopt_backbone,
    check_coverage,
    latest_checkpoint,
    read_resume_point,
)
from .compiling import transformer_blocks


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed what is random inside the model from the iteration.

    Drop path, dropout and mixup then need no generator state in the
    checkpoint, and the data pipeline cannot disturb them.

    Args:
        seed (int): The run's seed.
    """

    priority = 'VERY_HIGH'

    def __init__(self, seed: int):
        self.seed = seed

    def before_train_iter(self, runner, *args, **kwargs):
        seed_generators(self.seed, 1, get_rank(), runner.iter)
        torch.manual_seed(torch.initial_seed())  # accelerators too


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuse a checkpoint that does not fit, before it is loaded.

    To resume or to evaluate, it must cover all of the model; to start training
    from, the backbone.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict):
        training = isinstance(runner._train_loop, BaseLoop)
        if training and not runner._resume:
            adopt_backbone(runner.model, checkpoint, str(runner._load_from))
        state_dict = checkpoint.get('state_dict', checkpoint)
        report = check_coverage(
            runner.model,
            {key.removeprefix('module.'): tensor for key, tensor in state_dict.items()},
            name=str(runner._load_from),
            complete=runner._resume or not training,
        )
        runner.logger.info(report)


class OwedValidationHook(Hook):
    """Run the validation that a stopped run did not come to.

    mmengine saves a checkpoint before the validation at the same iteration or
    epoch, and resumes after it. Whether that validation came to its end cannot
    be known, unless it found the best model so far.
    """

    priority = 'LOWEST'

    def before_train(self, runner):
        loop, point = runner.train_loop, runner._resume_point
        if point is None or point.validated:
            return
        if isinstance(loop, IterBasedTrainLoop):
            validate_if_due(runner, loop.iter, loop.max_iters)
        elif isinstance(loop, EpochBasedTrainLoop) and not point.within_epoch:
            validate_if_due(runner, loop.epoch, loop.max_epochs)


def validate_if_due(runner: Runner, done: int, last: int) -> None:
    """Validate where mmengine's training loops do.

    Args:
        runner (Runner): The runner.
        done (int): Finished iterations or epochs, whatever its loop counts.
        last (int): Their number in the whole run.
    """
    loop = runner.train_loop
    loop._decide_current_val_interval()
    if (
        runner.val_loop is not None
        and done >= loop.val_begin
        and (done % loop.val_interval == 0 or done == last)
    ):
        runner.val_loop.run()


class ResumableIterBasedTrainLoop(IterBasedTrainLoop):
    """mmengine's loop over a loader that already starts at the iteration.

    mmengine's own draws, when resuming at iteration k, k batches and throws
    them away, images decoded.
    """

    def run(self):
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            validate_if_due(runner, self._iter, self._max_iters)
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """mmengine's runner, with resuming that leaves no trace.

    A run that was killed and resumed has, bit for bit on CPU, the parameters
    of one that was not. Nothing is needed for it but the checkpoint's epoch,
    iteration and seed, since all randomness of training is keyed: a sample's
    by its place in the run (:class:`SeededDataset`,
    :class:`DrawBatchSampler`), the model's by the iteration
    (:class:`IterationSeedHook`). These three wrap what the config names.
    The one thing that is lost, with a warning, is a gradient that waits for
    its accumulation: save checkpoints at multiples of ``accumulative_counts``.

    It also refuses a checkpoint that does not fit the model
    (:class:`CheckpointFitHook`), and validates after resuming where the
    stopped run was to (:class:`OwedValidationHook`).

    Args:
        *args, **kwargs: As mmengine's runner.
        load_from (str, optional): Checkpoint to resume or to start from.
        resume (bool): Whether to resume: from ``load_from`` or else from the
            latest checkpoint in ``work_dir``, if any.
        randomness (dict): ``seed`` and others. A resumed run goes on with the
            seed it had.
    """

    def __init__(
        self,
        model: torch.nn.Module | dict,
        work_dir: str,
        *args,
        load_from: str | None = None,
        resume: bool = False,
        randomness: dict = dict(seed=None),
        **kwargs,
    ):
        self._resume_point = None
        if resume:
            load_from = load_from or latest_checkpoint(work_dir)
        if resume and load_from:
            self._resume_point = read_resume_point(load_from)
            # Known before anything is built: the samplers and everything
            # random that no checkpoint holds are built with it.
            asked = randomness.get('seed')
            seed = self._resume_point.seed
            randomness = dict(randomness)
            if seed is not None:
                randomness['seed'] = seed
        super().__init__(
            model,
            work_dir,
            *args,
            load_from=load_from,
            resume=resume,
            randomness=randomness,
            **kwargs,
        )
        if self._resume_point and asked not in (None, randomness['seed']):
            self.logger.warning(
                f'the run to resume has seed {seed}: it is kept, and the '
                f'configured {asked} is not used'
            )

    @property
    def shared_seed(self) -> int:
        """int: The run's seed, the same on every rank."""
        if self._randomness_cfg.get('diff_rank_seed', False):
            return self.seed - get_rank()
        return self.seed

    def _maybe_compile(self, target: str):
        """Compile Transformer blocks one by one instead of the whole step.

        Blocks alike share one graph, which is made in a fraction of the time,
        and what a compiler cannot trace lies outside of them.
        """
        options = self.cfg.get('compile', False)
        blocks = transformer_blocks(self.model)
        if not blocks or not isinstance(options, (bool, dict)):
            super()._maybe_compile(target)
        elif options is not False:
            for block in blocks:
                block.compile(**({} if options is True else options))
            self.logger.info(
                f'{len(blocks)} Transformer blocks are compiled when first '
                'run: the first iterations take longer'
            )

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop over draws instead of indices."""
        if isinstance(loop, BaseLoop):
            return loop
        loop = ConfigDict(loop)
        kind = self._loop_class(loop)
        start, point = 0, self._resume_point
        if kind is IterBasedTrainLoop:
            loop.pop('by_epoch', None)
            loop['type'] = ResumableIterBasedTrainLoop
            start = point.iter if point else 0
        elif issubclass(kind, EpochBasedTrainLoop):
            start = point.iter if point and point.within_epoch else 0
        # Other loops advance the data themselves.
        self._train_dataloader = self._draw_by_number(
            self._train_dataloader,
            endless=issubclass(kind, IterBasedTrainLoop),
            start=start,
        )
        return super().build_train_loop(loop)

    @staticmethod
    def _loop_class(loop: dict) -> type:
        if 'type' not in loop:
            return EpochBasedTrainLoop if loop['by_epoch'] else IterBasedTrainLoop
        kind = loop['type']
        return LOOPS.get(kind) if isinstance(kind, str) else kind

    def _draw_by_number(
        self, dataloader: DataLoader | dict, endless: bool, start: int
    ) -> DataLoader | dict:
        """Wrap the dataset and the batch sampler of a loader's config."""
        batch_sampler = (
            dataloader.get('batch_sampler')
            if isinstance(dataloader, dict)
            else dataloader
        )
        if not (batch_sampler is None or isinstance(batch_sampler, dict)):
            self.logger.warning(
                'the training dataloader or its batch sampler is not given '
                'as a config: its randomness is its own, and a resumed run '
                'will differ from an uninterrupted one'
            )
            return dataloader
        dataloader = ConfigDict(dataloader)
        dataloader['dataset'] = dict(
            type=SeededDataset, dataset=dataloader['dataset'], seed=self.shared_seed
        )
        dataloader['batch_sampler'] = dict(
            type=DrawBatchSampler,
            batch_sampler=batch_sampler,
            drop_last=dataloader.pop('drop_last', False),
            endless=endless,
            start=start,
        )
        return dataloader

    def register_hooks(
        self, default_hooks: dict | None = None, custom_hooks: list | None = None
    ) -> None:
        """Register the config's hooks and those of every run."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(IterationSeedHook(self.shared_seed))
        self.register_hook(CheckpointFitHook())
        self.register_hook(OwedValidationHook())
