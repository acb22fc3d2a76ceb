from .encoder_decoder import EncoderDecoder
from .uper_head import UPerHead

__all__ = ['EncoderDecoder', 'UPerHead']
