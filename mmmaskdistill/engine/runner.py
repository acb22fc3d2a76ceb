"""A runner whose resumed runs end with the same weights as uninterrupted runs."""

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
from mmmaskdistill.models.checkpoints import fit_content
from mmmaskdistill.registry import HOOKS, RUNNERS

from .checkpoints import latest_checkpoint, read_resume_point
from .compiling import transformer_blocks


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed the randomness inside the model at every iteration.

    The seed follows from the run's seed, the rank and the iteration. Drop path,
    dropout and mixup therefore need no generator state in the checkpoint, and
    random numbers that the data pipeline draws do not influence them.

    Args:
        seed (int): The run's seed.
    """

    priority = 'VERY_HIGH'

    def __init__(self, seed: int):
        self.seed = seed

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Seed all random generators of this process.

        Args:
            runner (Runner): The runner of the training.
            *args: Further arguments of mmengine's hook, which are ignored.
            **kwargs: Further arguments of mmengine's hook, which are ignored.
        """
        seed_generators(self.seed, 1, get_rank(), runner.iter)
        # `seed_generators` does not seed the generators of accelerators.
        torch.manual_seed(torch.initial_seed())


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Fit a checkpoint to the model before it is loaded, or refuse it.

    A checkpoint to resume from or to evaluate must cover the whole model. A
    checkpoint that training starts from must cover the backbone.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Fit a checkpoint that was read from its file.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint's content, changed in place. If
                training starts from it, it may be that of a ViT alone.

        Raises:
            CheckpointError: If the checkpoint does not cover the model or, at
                the start of training, its backbone.
        """
        training = isinstance(runner._train_loop, BaseLoop)
        fit_content(
            runner.model,
            checkpoint,
            str(runner._load_from),
            complete=runner._resume or not training,
        )


class OwedValidationHook(Hook):
    """Run the validation that a stopped run may not have finished.

    mmengine saves a checkpoint before the validation at the same iteration or
    epoch, and resumes after that validation. A checkpoint does not tell whether
    the validation was finished, unless the validation found the best model so
    far.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Validate if the run resumes at a point where validation is due.

        Args:
            runner (Runner): The runner, a :class:`ResumableRunner`.
        """
        loop, point = runner.train_loop, runner._resume_point
        if point is None or point.validated:
            return
        if isinstance(loop, IterBasedTrainLoop):
            validate_if_due(runner, loop.iter, loop.max_iters)
        elif isinstance(loop, EpochBasedTrainLoop) and not point.within_epoch:
            validate_if_due(runner, loop.epoch, loop.max_epochs)


def validate_if_due(runner: Runner, done: int, last: int) -> None:
    """Validate if mmengine's training loops would validate at this point.

    Args:
        runner (Runner): The runner.
        done (int): Number of finished iterations or epochs, depending on what
            the training loop counts.
        last (int): Number of iterations or epochs in the whole run.
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
    """mmengine's training loop for a data loader that starts at the right batch.

    When mmengine's own loop resumes at iteration k, it first loads k batches,
    decodes their images and discards them. Here the data loader itself skips
    these batches.
    """

    def run(self) -> torch.nn.Module:
        """Train until the last iteration.

        Returns:
            torch.nn.Module: The trained model.
        """
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
    """mmengine's runner, whose resumed runs equal uninterrupted runs.

    A run that was killed and resumed ends with the same parameters as a run
    that was not interrupted, bit for bit on the CPU. Only the epoch, the
    iteration and the seed in the checkpoint are needed for this, because all
    random numbers of training follow from the seed and a position: those of a
    sample from its place in the run (:class:`SeededDataset` and
    :class:`DrawBatchSampler`), those of the model from the iteration
    (:class:`IterationSeedHook`). The runner wraps the configured dataset and
    batch sampler accordingly.

    Gradients that wait for their accumulation are lost when a run resumes, and
    a warning says so. To avoid this, save checkpoints at multiples of
    ``accumulative_counts``.

    The runner also raises an error for a checkpoint that does not fit the model
    (:class:`CheckpointFitHook`), and runs a validation that the stopped run may
    not have finished (:class:`OwedValidationHook`).

    Args:
        model (torch.nn.Module | dict): The model or its config.
        work_dir (str): Folder that the run writes to.
        *args: Further arguments of mmengine's runner.
        load_from (str, optional): Checkpoint to resume from or to start from.
            Defaults to None.
        resume (bool): Whether to resume from ``load_from`` or, if that is None,
            from the latest checkpoint in ``work_dir``. If there is no
            checkpoint, a new run starts. Defaults to False.
        randomness (dict, optional): Arguments of mmengine's
            ``Runner.set_randomness``, such as ``seed``. A resumed run keeps the
            seed of the stopped run. Defaults to None, which means
            ``dict(seed=None)``, a random seed.
        **kwargs: Further arguments of mmengine's runner.

    Raises:
        CheckpointError: If the checkpoint to resume from does not exist, cannot
            be read or holds only weights.
    """

    def __init__(
        self,
        model: torch.nn.Module | dict,
        work_dir: str,
        *args,
        load_from: str | None = None,
        resume: bool = False,
        randomness: dict | None = None,
        **kwargs,
    ):
        if randomness is None:
            randomness = dict(seed=None)
        self._resume_point = None
        if resume:
            load_from = load_from or latest_checkpoint(work_dir)
        if resume and load_from:
            self._resume_point = read_resume_point(load_from)
            # The seed must be set before anything is built, because samplers,
            # and random values that no checkpoint holds, depend on it.
            configured_seed = randomness.get('seed')
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
        if self._resume_point and configured_seed not in (None, randomness['seed']):
            self.logger.warning(
                f'the run to resume has seed {seed}: it is kept, and the '
                f'configured {configured_seed} is not used'
            )

    @property
    def shared_seed(self) -> int:
        """The run's seed, which is the same on every rank."""
        if self._randomness_cfg.get('diff_rank_seed', False):
            return self.seed - get_rank()
        return self.seed

    def _maybe_compile(self, target: str):
        """Compile the Transformer blocks one by one instead of the whole step.

        Equal blocks share one graph, which is compiled in a fraction of the
        time, and code that the compiler cannot trace lies outside the blocks.
        """
        options = self.cfg.get('compile', False)
        blocks = transformer_blocks(self.model)
        if not blocks or not isinstance(options, (bool, dict)):
            super()._maybe_compile(target)
        elif options is not False:
            for block in blocks:
                block.compile(**({} if options is True else options))
            self.logger.info(
                f'{len(blocks)} Transformer blocks are compiled when they run '
                'for the first time, so the first iterations take longer'
            )

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop over a data loader that starts at the resume point.

        Args:
            loop (BaseLoop | dict): The loop or its config.

        Returns:
            BaseLoop: The loop. A loop that is already built is returned
            unchanged.
        """
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
        # Loops of other classes skip the batches before the resume point
        # themselves, so their data loader starts at the first batch.
        self._train_dataloader = self._draw_by_number(
            self._train_dataloader,
            endless=issubclass(kind, IterBasedTrainLoop),
            start=start,
            length={
                key: loop[key] for key in ('max_iters', 'max_epochs') if key in loop
            },
        )
        return super().build_train_loop(loop)

    @staticmethod
    def _loop_class(loop: dict) -> type:
        if 'type' not in loop:
            return EpochBasedTrainLoop if loop['by_epoch'] else IterBasedTrainLoop
        kind = loop['type']
        return LOOPS.get(kind) if isinstance(kind, str) else kind

    def _draw_by_number(
        self, dataloader: DataLoader | dict, endless: bool, start: int, length: dict
    ) -> DataLoader | dict:
        """Wrap the dataset and the batch sampler in a data loader's config.

        A sample's random numbers, and settings that change during the run, then
        follow from its number in the run, whose ``length`` is ``max_iters`` or
        ``max_epochs``.
        """
        batch_sampler = (
            dataloader.get('batch_sampler')
            if isinstance(dataloader, dict)
            else dataloader
        )
        if not (batch_sampler is None or isinstance(batch_sampler, dict)):
            self.logger.warning(
                'the training dataloader or its batch sampler is an object and '
                'not a config, so the runner cannot control its random numbers: '
                'a resumed run will differ from an uninterrupted one, and settings '
                'of transforms that change during the run keep their last value'
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
            **length,
        )
        return dataloader

    def register_hooks(
        self, default_hooks: dict | None = None, custom_hooks: list | None = None
    ) -> None:
        """Register the config's hooks and the hooks that this runner always needs.

        Args:
            default_hooks (dict, optional): mmengine's default hooks. Defaults
                to None.
            custom_hooks (list, optional): Further hooks of the config. Defaults
                to None.
        """
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(IterationSeedHook(self.shared_seed))
        self.register_hook(CheckpointFitHook())
        self.register_hook(OwedValidationHook())
