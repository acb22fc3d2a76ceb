"""A web page that shows what trained models say about a picture.

Only :mod:`.page` needs Gradio.
"""
