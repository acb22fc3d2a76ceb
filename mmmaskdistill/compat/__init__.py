"""Make the versions of other libraries that are in use today work together.

Every module of this package deals with one incompatibility. Its docstring says what
breaks, since which version, and what the remedy is. Its function ``apply`` puts the
remedy in place. Importing this package applies all remedies.
"""

from . import toolkits

# The modules below import the toolkits, so the installed versions are checked first.
toolkits.apply()

from . import (  # noqa: E402
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
    distutils_shim,
    find_loader,
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

for module in (
    distutils_shim,
    find_loader,
    package_paths,
    compiled_ops,
    config_merging,
    multimodal,
    interp2d,
    numpy2,
    class_weights,
    dice_loss,
    focal_loss,
    ohem_loss,
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
