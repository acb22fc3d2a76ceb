"""Export what was trained to files that run elsewhere, and to Hugging Face's layout."""

from .exporter import Exported, export_model
from .huggingface import check_push, push_folder, write_folder
from .metrics import read_metrics
from .requests import Request, check_request

__all__ = [
    'Exported',
    'Request',
    'check_push',
    'check_request',
    'export_model',
    'push_folder',
    'read_metrics',
    'write_folder',
]
