"""Start a project from a folder of images: look, choose settings, write configs."""

from .starting import Options, start_project

__all__ = ['Options', 'start_project']
