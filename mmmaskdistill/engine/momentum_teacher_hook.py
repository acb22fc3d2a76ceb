"""Update a teacher that follows the student."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import MaskDistill
from mmmaskdistill.registry import HOOKS


@HOOKS.register_module()
class MomentumTeacherHook(Hook):
    """Move the teacher towards the student after each step of the optimizer.

    With gradient accumulation, several iterations make one step, and the teacher
    moves once. Checkpoints are written afterwards, so that they contain the student
    and the teacher after the same step, and a resumed run computes the same average
    as an uninterrupted one.

    A config needs this hook if the teacher follows the student, as
    ``MomentumTeacher`` does.
    """

    # Before the hook that writes checkpoints.
    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check that there is a teacher to update.

        Args:
            runner (Runner): The runner of the training.

        Raises:
            ConfigError: If the model has no teacher that follows the student.
        """
        model = _unwrapped(runner)
        if not isinstance(model, MaskDistill) or not model.teacher.follows_student:
            teacher = (
                f' with the teacher {model.teacher.name}'
                if isinstance(model, MaskDistill)
                else ''
            )
            raise ConfigError(
                f'MomentumTeacherHook has nothing to update in a '
                f'{type(model).__name__}{teacher}: remove it from custom_hooks, or '
                'use a teacher that follows the student, such as MomentumTeacher'
            )

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Update the teacher if the optimizer has made a step in this iteration.

        Args:
            runner (Runner): The runner of the training.
            *args: Further arguments of mmengine's hook, which are ignored.
            **kwargs: Further arguments of mmengine's hook, which are ignored.
        """
        # The wrapper counts an iteration in its backward pass. Afterwards, this
        # method tells whether that iteration ended with a step.
        if runner.optim_wrapper.should_update():
            model = _unwrapped(runner)
            model.teacher.update(model.backbone)


def _unwrapped(runner: Runner):
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return model
