import mmengine.dist.utils
import scipy.interpolate
import torch
from mmcv.image import photometric
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import checkpoint
from mmpretrain.models import AverageClsScoreTTA
from mmseg.datasets import PhotoMetricDistortion
from mmseg.models.backbones.swin import ShiftWindowMSA
from mmseg.models.losses import DiceLoss, OhemCrossEntropy, cross_entropy_loss

from mmmaskdistill.compat import (
    amp,
    atomic_files,
    averaged_scores,
    checkpoint_rotation,
    class_weights,
    color_transforms,
    compiled_ops,
    config_merging,
    deferred_scalars,
    dice_loss,
    focal_loss,
    gloo,
    interp2d,
    multimodal,
    numpy2,
    ohem_loss,
    package_paths,
    safe_loading,
    window_batches,
)


def patched_functions():
    return (
        mmengine.dist.utils._init_dist_pytorch,
        MMDistributedDataParallel.__init__,
        CheckpointHook._save_checkpoint_with_step,
        HistoryBuffer.__getstate__,
        MessageHub.update_scalar,
        OptimWrapper._clip_grad,
        PhotoMetricDistortion.transform,
        checkpoint.load_url,
        scipy.interpolate.interp2d,
        Config._merge_a_into_b,
        photometric.adjust_hue,
        cross_entropy_loss.cross_entropy,
        AverageClsScoreTTA._merge_single_sample,
        DiceLoss.forward,
        OhemCrossEntropy.forward,
        ShiftWindowMSA.window_reverse,
    )


def test_applying_the_patches_again_changes_nothing():
    before = patched_functions()
    count = len(torch.serialization.get_safe_globals())
    for module in (
        package_paths,
        compiled_ops,
        multimodal,
        interp2d,
        class_weights,
        dice_loss,
        focal_loss,
        ohem_loss,
        config_merging,
        numpy2,
        safe_loading,
        atomic_files,
        checkpoint_rotation,
        deferred_scalars,
        amp,
        gloo,
        color_transforms,
        averaged_scores,
        window_batches,
    ):
        module.apply()
    assert patched_functions() == before
    assert len(torch.serialization.get_safe_globals()) == count
