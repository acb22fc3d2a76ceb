"""The only room that knows versions and quirks of other libraries.

One file a quirk: its docstring says what breaks, since when, and what the
remedy is. Importing this package applies all of them, once.
"""

from . import toolkits

toolkits.apply()  # before anything below imports a toolkit

from . import (  # noqa: E402
    amp,
    atomic_files,
    checkpoint_rotation,
    compiled_ops,
    deferred_scalars,
    gloo,
    interp2d,
    multimodal,
    package_paths,
    safe_loading,
)

for quirk in (
    package_paths,
    compiled_ops,
    multimodal,
    interp2d,
    safe_loading,
    atomic_files,
    checkpoint_rotation,
    deferred_scalars,
    amp,
    gloo,
):
    quirk.apply()
