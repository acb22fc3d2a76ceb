from .cached_teacher import CachedTeacher
from .timm_teacher import TimmTeacher

__all__ = ['CachedTeacher', 'TimmTeacher']
