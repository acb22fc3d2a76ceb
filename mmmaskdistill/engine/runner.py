"""A runner whose resumed runs end with the same weights as uninterrupted runs."""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook, IterTimerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.registry import HOOKS as ALL_HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmmaskdistill.datasets.draws import (
    DrawBatchSampler,
    SeededDataset,
    seed_generators,
)
from mmmaskdistill.errors import CheckpointError, ConfigError, first_line
from mmmaskdistill.models.checkpoints import fit_content
from mmmaskdistill.models.checkpoints.files import find_file
from mmmaskdistill.registry import HOOKS, RUNNERS

from .channels_last import use_channels_last
from .checkpoints import latest_checkpoint, read_resume_point
from .compiling import transformer_blocks
from .log_hooks import HighestRateHook, RunTimerHook
from .optimizer_state import fit_state, implementation
from .prefetching import check_prefetch, prefetched
from .rescheduling import (
    advance,
    all_schedulers,
    changed_settings,
    group_settings,
    scheduler_settings,
    set_group_settings,
)
from .schedules import RunLength, fit_schedules


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
        left = self._max_iters - self._iter
        for batch in runner.batches(islice(self.dataloader_iterator, max(left, 0))):
            runner.model.train()
            self.run_iter(batch)
            validate_if_due(runner, self._iter, self._max_iters)
            if self.stop_training:
                break
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model


class FiniteEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's training loop, whose epochs end even if the sampler does not."""

    def run_epoch(self) -> None:
        """Train on as many batches as the data loader says that it has."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        batches = islice(self.dataloader, len(self.dataloader))
        for k, batch in enumerate(self.runner.batches(batches)):
            self.run_iter(k, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


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

    Schedules are fitted to the length of the run (:func:`fit_schedules`). A run that
    resumes with another length, learning rate or batch size than the stopped run had
    goes on at the same iteration, or at the same epoch if it counts epochs, with the
    learning rate that a new run of this config has there, and says so in the log.

    With ``prefetch = True`` in the config, the next batch is copied to the GPU while
    the GPU works on the current one, see :func:`prefetched`. With ``channels_last =
    True``, convolutions keep their channels last in memory, see
    :func:`use_channels_last`.

    The runner also raises an error for a checkpoint that does not fit the model
    (:class:`CheckpointFitHook`), and runs a validation that the stopped run may
    not have finished (:class:`OwedValidationHook`).

    Args:
        model (torch.nn.Module | dict): The model or its config.
        work_dir (str): Folder that the run writes to.
        *args: Further arguments of mmengine's runner.
        load_from (str, optional): Checkpoint to resume from or to start from, see
            :func:`mmmaskdistill.models.checkpoints.files.find_file`. Defaults to None.
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
        self._configured_settings = None
        self._notes = set()
        if resume:
            load_from = load_from or latest_checkpoint(work_dir)
        if load_from:
            load_from = find_file(load_from)
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

    def wrap_model(
        self, model_wrapper_cfg: dict | None, model: torch.nn.Module
    ) -> torch.nn.Module:
        """Move the model to the device and wrap it if there are several processes.

        Args:
            model_wrapper_cfg (dict | None): Config of the wrapper.
            model (torch.nn.Module): The model.

        Returns:
            torch.nn.Module: The model or its wrapper.

        Raises:
            ConfigError: If the config's ``channels_last`` is not True or False.
        """
        use_channels_last(model, self.cfg.get('channels_last', False))
        return super().wrap_model(model_wrapper_cfg, model)

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

    def batches(self, batches: Iterable) -> Iterable:
        """Return the batches of the training loop, prefetched if the config says so.

        Args:
            batches (Iterable): Batches of the data loader.

        Returns:
            Iterable: The same batches.
        """
        if self.cfg.get('prefetch', False):
            return prefetched(batches, self.model)
        return batches

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
        prefetch = self.cfg.get('prefetch', False)
        check_prefetch(prefetch, self.model)
        if prefetch and kind not in (IterBasedTrainLoop, EpochBasedTrainLoop):
            raise ConfigError(
                f'prefetch=True is for IterBasedTrainLoop and EpochBasedTrainLoop, but '
                f'train_cfg has type={kind.__name__}: set prefetch=False'
            )
        start, point = 0, self._resume_point
        if kind is IterBasedTrainLoop:
            self._check_length(loop, kind, 'max_iters', 'max_epochs')
            loop.pop('by_epoch', None)
            loop['type'] = ResumableIterBasedTrainLoop
            start = point.iter if point else 0
        elif issubclass(kind, EpochBasedTrainLoop):
            if kind is EpochBasedTrainLoop:
                self._check_length(loop, kind, 'max_epochs', 'max_iters')
                loop.pop('by_epoch', None)
                loop['type'] = FiniteEpochBasedTrainLoop
            self._train_dataloader = self._with_finite_sampler(self._train_dataloader)
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
    def _check_length(loop: dict, kind: type, length: str, other: str) -> None:
        """Refuse a length in the unit of the other training loop."""
        name = kind.__name__
        if other in loop:
            raise ConfigError(
                f'train_cfg has {other}={loop[other]}, which {name} does not take, '
                'perhaps from a base config: write train_cfg=dict(_delete_=True, '
                f"type='{name}', {length}=...)"
            )
        if length not in loop:
            raise ConfigError(
                f'train_cfg has no {length}, which {name} needs: add '
                f'--cfg-options train_cfg.{length}=N'
            )

    def _with_finite_sampler(self, dataloader: DataLoader | dict) -> DataLoader | dict:
        """Replace a sampler without an end by one that yields each image once."""
        sampler = dataloader.get('sampler') if isinstance(dataloader, dict) else None
        if not _is_infinite(sampler):
            return dataloader
        self._note_once(
            'an epoch has an end and train_dataloader.sampler.type=InfiniteSampler '
            'has none: DefaultSampler is used, which yields each image once per epoch'
        )
        options = {key: sampler[key] for key in ('shuffle', 'seed') if key in sampler}
        return {**dataloader, 'sampler': dict(type='DefaultSampler', **options)}

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the validation loop over a data loader that has an end.

        Args:
            loop (BaseLoop | dict): The loop or its config.

        Returns:
            BaseLoop: The loop.

        Raises:
            ConfigError: If the sampler of the data loader has no end.
        """
        _check_end(self._val_dataloader, 'val_dataloader')
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the test loop over a data loader that has an end.

        Args:
            loop (BaseLoop | dict): The loop or its config.

        Returns:
            BaseLoop: The loop.

        Raises:
            ConfigError: If the sampler of the data loader has no end.
        """
        _check_end(self._test_dataloader, 'test_dataloader')
        return super().build_test_loop(loop)

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

    def build_param_scheduler(
        self, scheduler: _ParamScheduler | dict | list
    ) -> list[_ParamScheduler] | dict[str, list[_ParamScheduler]]:
        """Build schedulers, and keep what the config says of the optimizer's groups.

        Args:
            scheduler (_ParamScheduler | dict | list): The schedulers or their
                configs.

        Returns:
            list | dict: The schedulers, see mmengine's runner.
        """
        if self._configured_settings is None:
            self._configured_settings = group_settings(self.optim_wrapper)
            self._configured_schedule = scheduler
        return super().build_param_scheduler(scheduler)

    def _build_param_scheduler(
        self, scheduler: _ParamScheduler | dict | Sequence, optim_wrapper: OptimWrapper
    ) -> list[_ParamScheduler]:
        """Build the schedulers of one optimizer, fitted to the length of the run."""
        if not isinstance(scheduler, Sequence):
            scheduler = [scheduler]
        if scheduler and all(isinstance(part, dict) for part in scheduler):
            scheduler, notes = fit_schedules(scheduler, self._run_length)
            for note in notes:
                self._note_once(note)
        return super()._build_param_scheduler(scheduler, optim_wrapper)

    @property
    def _run_length(self) -> RunLength:
        return RunLength(
            epochs=self.max_epochs,
            iters=self.max_iters,
            epoch_length=len(self.train_dataloader),
            by_epoch=isinstance(self.train_loop, EpochBasedTrainLoop),
        )

    def _note_once(self, note: str) -> None:
        if note not in self._notes:
            self._notes.add(note)
            self.logger.warning(note)

    def load_or_resume(self) -> None:
        """Load or resume, and record the batch size for those that resume later."""
        super().load_or_resume()
        if isinstance(self._train_loop, BaseLoop):
            self.message_hub.update_info('images_per_step', self._images_per_step)

    @property
    def _images_per_step(self) -> int | None:
        loader = self.train_dataloader
        size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
        return size and size * get_world_size()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume from a checkpoint, with this config's schedule if it is another one.

        Args:
            filename (str): Path of the checkpoint.
            *args: Further arguments of mmengine's method.
            **kwargs: Further arguments of mmengine's method.

        Raises:
            CheckpointError: If the optimizer of the checkpoint has other parameter
                groups.
        """
        if not isinstance(self.optim_wrapper, OptimWrapper):
            super().resume(filename, *args, **kwargs)
            return
        if self._configured_settings is None:  # There is no schedule.
            self._configured_settings = group_settings(self.optim_wrapper)
            self._configured_schedule = None
        configured = scheduler_settings(all_schedulers(self.param_schedulers))
        chosen = implementation(self.optim_wrapper.optimizer)
        try:
            super().resume(filename, *args, **kwargs)
        except ValueError as error:
            if 'parameter group' not in str(error):
                raise
            raise CheckpointError(
                f'checkpoint {filename!r} has an optimizer with other parameter '
                f'groups ({first_line(error)}): resume with the model and the '
                'optim_wrapper of the stopped run, or start a new run from it with '
                f'--cfg-options load_from={filename}'
            ) from error
        fit_state(self.optim_wrapper.optimizer, chosen)
        self._follow_config(configured)

    def _follow_config(self, configured: list[dict]) -> None:
        """Replace what a checkpoint says of the schedule where the config differs."""
        run, loop = self._run_length, self._train_loop
        changes = self._changed_lengths(run)
        self._keep_epoch(run)
        schedulers = all_schedulers(self.param_schedulers)
        settings = changed_settings(
            group_settings(self.optim_wrapper), self._configured_settings, schedulers
        )
        changes += [f'{key} {old} -> {new}' for key, (old, new) in settings.items()]
        done = {True: loop._epoch, False: loop._iter}
        if (
            settings
            or scheduler_settings(schedulers) != configured
            or any(
                part._global_step != done[part.by_epoch]
                for part in schedulers
                if not getattr(part, 'need_val_args', False)
            )
        ):
            changes = changes or ['another schedule']
            self._reschedule()
        total, done = (
            (run.epochs, loop._epoch) if run.by_epoch else (run.iters, loop._iter)
        )
        if done >= total:
            unit = 'epochs' if run.by_epoch else 'iterations'
            self.logger.warning(
                f'the checkpoint is one after {done:,} {unit}, and this config asks '
                f'for {total:,}, so nothing is left to train: set train_cfg.max_'
                f'{"epochs" if run.by_epoch else "iters"} to more than {done}'
            )
        elif changes:
            position = (
                f'epoch {loop._epoch:,} of {run.epochs:,}'
                if run.by_epoch
                else f'iteration {loop._iter:,} of {run.iters:,}'
            )
            rate = max(map(max, self.optim_wrapper.get_lr().values()))
            self.logger.warning(
                f'resumed with other settings than the stopped run had '
                f'({", ".join(changes)}): from here, at {position}, the learning rate '
                'is the one that a new run of this config has at this point '
                f'({rate:.4g})'
            )

    def _changed_lengths(self, run: RunLength) -> list[str]:
        """Compare length and batch size of the stopped run with those of the config."""
        info = self.message_hub.runtime_info
        pairs = [('batch size', info.get('images_per_step'), self._images_per_step)]
        if run.by_epoch:
            pairs.append(('number of epochs', info.get('max_epochs'), run.epochs))
            length = self._epoch_length_before(run)
            pairs.append(('batches per epoch', length, run.epoch_length))
        else:
            pairs.append(('number of iterations', info.get('max_iters'), run.iters))
        return [
            f'{name} {before:,} -> {now:,}'
            for name, before, now in pairs
            if before and now and before != now
        ]

    def _epoch_length_before(self, run: RunLength) -> int:
        """Return how many batches an epoch of the stopped run had."""
        info = self.message_hub.runtime_info
        epochs, iters = info.get('max_epochs'), info.get('max_iters')
        if not epochs or not iters or (epochs == 1 and not self._train_loop._epoch):
            return run.epoch_length  # The stopped run counted iterations.
        return iters // epochs

    def _keep_epoch(self, run: RunLength) -> None:
        """Go on at the same epoch if epochs have become longer or shorter."""
        loop, length = self._train_loop, self._epoch_length_before(run)
        in_epoch = loop._iter - loop._epoch * length
        if run.by_epoch and (length != run.epoch_length or in_epoch > length):
            loop._epoch = loop._iter // length
            loop._iter = loop._epoch * run.epoch_length
            sampler = self.train_dataloader.batch_sampler
            if isinstance(sampler, DrawBatchSampler):
                sampler.start = 0

    def _reschedule(self) -> None:
        """Set the optimizer and the schedulers as a new run has them at this point."""
        if _has_objects(self._configured_schedule):
            self.logger.warning(
                'param_scheduler has objects and no configs, so they keep the state '
                'that the checkpoint gives them'
            )
            return
        set_group_settings(self.optim_wrapper, self._configured_settings)
        if self._configured_schedule is not None:
            self.param_schedulers = self.build_param_scheduler(
                self._configured_schedule
            )
            loop = self._train_loop
            advance(
                self.param_schedulers,
                loop._iter,
                loop._epoch,
                len(self.train_dataloader),
            )

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register mmengine's default hooks, of which two are replaced.

        ``IterTimerHook`` is replaced by :class:`RunTimerHook`, and
        ``RuntimeInfoHook`` by :class:`HighestRateHook`. Hooks of other classes and
        hooks that the config removes stay as the config has them.

        Args:
            hooks (dict, optional): The config's ``default_hooks``. Defaults to None.
        """
        hooks = dict(hooks or {})
        for name, old, new in (
            ('timer', IterTimerHook, RunTimerHook),
            ('runtime_info', RuntimeInfoHook, HighestRateHook),
        ):
            hook = hooks.get(name, {})
            if isinstance(hook, dict):
                kind = hook.get('type', old)
                kind = ALL_HOOKS.get(kind) if isinstance(kind, str) else kind
                if kind is old:
                    hooks[name] = {**hook, 'type': new}
        super().register_default_hooks(hooks)

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


def _is_infinite(sampler: dict | object | None) -> bool:
    if isinstance(sampler, dict):
        kind = sampler.get('type')
        kind = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
        return isinstance(kind, type) and issubclass(kind, InfiniteSampler)
    return isinstance(sampler, InfiniteSampler)


def _check_end(dataloader: DataLoader | dict | None, name: str) -> None:
    sampler = (
        dataloader.get('sampler')
        if isinstance(dataloader, dict)
        else getattr(dataloader, 'sampler', None)
    )
    if _is_infinite(sampler):
        raise ConfigError(
            f'{name}.sampler is an InfiniteSampler, so that it would never end: set '
            f'{name}.sampler.type=DefaultSampler and {name}.sampler.shuffle=False'
        )


def _has_objects(schedule: _ParamScheduler | dict | Sequence | None) -> bool:
    if isinstance(schedule, dict):
        return 'type' not in schedule and any(map(_has_objects, schedule.values()))
    if isinstance(schedule, Sequence):
        return any(map(_has_objects, schedule))
    return isinstance(schedule, _ParamScheduler)
