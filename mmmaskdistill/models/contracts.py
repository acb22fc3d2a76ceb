"""The check that a part of a method inherits from the class that says what it owes."""

from torch import nn

from mmmaskdistill.errors import ConfigError


def check_part(part: nn.Module, base: type) -> nn.Module:
    """Check that a part has its base class, and therefore all of its attributes.

    Args:
        part (nn.Module): A teacher, normalizer, student, head or mask.
        base (type): The base class of parts of this kind.

    Returns:
        nn.Module: The part.

    Raises:
        ConfigError: If the part does not inherit from the base class.
    """
    if not isinstance(part, base):
        raise ConfigError(
            f'{type(part).__name__} cannot be used as a {base.__name__}: derive it '
            f'from mmmaskdistill.models.{base.__name__}, whose docstring says what '
            'it owes'
        )
    return part
