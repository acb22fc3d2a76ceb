from .base import Teacher
from .cached_teacher import CachedTeacher
from .hog_teacher import HOGTeacher
from .momentum_teacher import MomentumTeacher
from .pixel_teacher import PixelTeacher
from .teacher_list import TeacherList
from .timm_teacher import TimmTeacher
from .tokenizer_teachers import DALLETeacher, VQKDTeacher

__all__ = [
    'CachedTeacher',
    'DALLETeacher',
    'HOGTeacher',
    'MomentumTeacher',
    'PixelTeacher',
    'Teacher',
    'TeacherList',
    'TimmTeacher',
    'VQKDTeacher',
]
