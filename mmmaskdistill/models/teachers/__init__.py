from .cached_teacher import CachedTeacher
from .hog_teacher import HOGTeacher
from .pixel_teacher import PixelTeacher
from .timm_teacher import TimmTeacher

__all__ = ['CachedTeacher', 'HOGTeacher', 'PixelTeacher', 'TimmTeacher']
