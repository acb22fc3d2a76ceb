"""Read and write videos with PyAV or, where it is not installed, with OpenCV."""

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmmaskdistill.datasets.image_files import UnreadableImage
from mmmaskdistill.errors import ConfigError

from .writing import written

try:
    import av
except ImportError:  # It is an extra.
    av = None


class Frame(NamedTuple):
    """A picture of a video.

    Attributes:
        image (ndarray): [H, W, 3] uint8 RGB, rotated as it is to be seen.
        time (int | None): When it is to be seen, in units of the video's ``time_base``;
            None if that is not known.
    """

    image: np.ndarray
    time: int | None


class Video:
    """A video file.

    Args:
        path (str): The file.

    Attributes:
        rate (Fraction): Pictures a second, on average.
        time_base (Fraction | None): Unit of the times in seconds; None if the times are
            not known.
        count (int): Number of pictures that the file claims to have; 0 if it does not.

    Raises:
        UnreadableImage: If the file is missing, empty or no video.
    """

    def __init__(self, path: str):
        self.path = path
        if not os.path.isfile(path):
            raise self._unreadable('No such file')
        if not os.path.getsize(path):
            raise self._unreadable('the file is empty')
        self.time_base, self.count = None, 0
        if av is None:
            capture = self._capture()
            rate = capture.get(cv2.CAP_PROP_FPS)
            self.rate = Fraction(rate or 25).limit_denominator(1001)
            self.count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            capture.release()
            return
        with self._container() as container:
            stream = container.streams.video[0]
            self.rate = stream.average_rate or Fraction(25)
            self.time_base, self.count = stream.time_base, stream.frames

    def __iter__(self) -> Iterator[Frame]:
        """Yield the pictures.

        Raises:
            UnreadableImage: If the file is damaged.
        """
        number = 0
        for frame in self._decode_by_opencv() if av is None else self._decode():
            yield frame
            number += 1
        if not number:
            raise self._unreadable('it has no picture')

    def _decode(self) -> Iterator[Frame]:
        with self._container() as container:
            stream = container.streams.video[0]
            stream.thread_type = 'AUTO'
            number = 0
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames, None)
                except av.FFmpegError as error:
                    raise self._unreadable(
                        f'after {number} pictures: {error.strerror}'
                    ) from error
                if frame is None:
                    return
                number += 1
                image = frame.to_ndarray(format='rgb24')
                turns = round((getattr(frame, 'rotation', 0) or 0) / 90)
                yield Frame(np.ascontiguousarray(np.rot90(image, turns)), frame.pts)

    def _decode_by_opencv(self) -> Iterator[Frame]:
        capture = self._capture()
        try:
            while True:
                read, image = capture.read()
                if not read:
                    return
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), None)
        finally:
            capture.release()

    def _container(self) -> Any:
        try:
            container = av.open(self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._unreadable(error.strerror or str(error)) from error
        if not container.streams.video:
            container.close()
            raise self._unreadable('it has no pictures, only sound or text')
        return container

    def _capture(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self.path)
        if not capture.isOpened():
            raise self._unreadable('OpenCV finds no video in it')
        return capture

    def _unreadable(self, reason: str) -> UnreadableImage:
        return UnreadableImage(f"cannot load the video '{self.path}': {reason}")


class VideoWriter:
    """Write an MP4 video, completely or not at all.

    PyAV writes H.264, at the times of another video; OpenCV writes MPEG-4 at a fixed
    rate. Both formats need an even number of rows and columns, so an odd last one is
    repeated.

    Args:
        path (str | PathLike): The file, which ends with ``.mp4``. Its folder is
            created.
        like (Video): The video whose rate and times are taken over.

    Raises:
        ConfigError: If no encoder is there.
    """

    def __init__(self, path: str | os.PathLike, like: Video):
        self.path = path
        self._file = written(path)
        self._like = like
        self._output = self._stream = None
        self._number, self._last = 0, -1

    def __enter__(self) -> 'VideoWriter':
        self._temporary = self._file.__enter__()
        return self

    def write(self, image: np.ndarray, time: int | None = None) -> None:
        """Add a picture.

        Args:
            image (ndarray): [H, W, 3] uint8 RGB, of the same size each time.
            time (int, optional): When it is to be seen, see :class:`Frame`. Defaults to
                None: after the picture before, at the video's rate.
        """
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
        if self._output is None:
            self._open(image)
        self._number += 1
        if av is None:
            self._output.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            return
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
        frame.time_base = self._stream.codec_context.time_base
        if time is None or self._like.time_base is None:
            time = round((self._number - 1) / self._like.rate / frame.time_base)
        # An encoder refuses times that do not increase.
        frame.pts = self._last = max(time, self._last + 1)
        self._output.mux(self._stream.encode(frame))

    def __exit__(self, kind: type | None, *args) -> None:
        try:
            if self._output is not None and av is None:
                self._output.release()
            elif self._output is not None:
                if kind is None:
                    self._output.mux(self._stream.encode(None))
                self._output.close()
        finally:
            self._file.__exit__(kind, *args)

    def _open(self, image: np.ndarray):
        height, width = image.shape[:2]
        if av is None:
            self._output = cv2.VideoWriter(
                str(self._temporary),
                cv2.VideoWriter_fourcc(*'mp4v'),
                float(self._like.rate),
                (width, height),
            )
            if not self._output.isOpened():
                raise ConfigError(
                    f"cannot write the video '{self.path}': OpenCV has no encoder for "
                    'it. pip install "mmmaskdistill[video]"'
                )
            return
        self._output = av.open(str(self._temporary), 'w')
        available = av.codec.codecs_available
        codec = 'libx264' if 'libx264' in available else 'mpeg4'
        self._stream = self._output.add_stream(codec, rate=self._like.rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = 'yuv420p'
        if codec == 'libx264':
            self._stream.options = dict(crf='18', preset='veryfast')
            if self._like.time_base:
                self._stream.codec_context.time_base = self._like.time_base
