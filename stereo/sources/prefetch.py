"""The next frame is read while the network works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress

from stereo.sources.frame import Dropped, Source, StereoFrame

POLL = 0.2  # s: how often a waiting side looks whether the other one is still there
_Item = StereoFrame | Dropped | BaseException | None  # None: the end


class Prefetch:
    """Iterate a source in a thread, one frame ahead; of a live source only the newest frame is kept.

    What the source raises is raised where the frames are taken. The source is closed by its own thread when the frames end or
    the block is left. passed_over: frames of a live source that came and went while the network was busy.

        with Prefetch(source) as frames:
            for frame in frames: ...
    """

    def __init__(self, source: Source):
        self._source = source
        self._queue: queue.Queue[_Item] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)
        self._waiting: _Item = None  # what was put last, and may have been taken since
        self.passed_over = 0

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)  # a camera that hangs must not keep the program

    def notes(self) -> list[str]:
        """Lines to say when all is taken."""
        return [f"{self.passed_over} frames came while the network was busy and were passed over"] if self.passed_over else []

    def __iter__(self) -> Iterator[StereoFrame | Dropped]:
        while (item := self._take()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _take(self) -> _Item:
        while True:
            try:
                return self._queue.get(timeout=POLL)  # without a limit Ctrl-C is not heard on Windows
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    return None

    def _read(self) -> None:
        end: _Item = None
        try:
            for item in self._source:
                if self._stop.is_set():
                    break
                self._put(item, replace=self._source.live and isinstance(item, StereoFrame))
        except BaseException as error:  # carried over to whoever takes the frames
            end = error
        finally:
            self._source.close()
        self._put(end, replace=False)

    def _put(self, item: _Item, replace: bool) -> None:
        while not self._stop.is_set():
            if replace and isinstance(self._waiting, StereoFrame):  # what says that frames are missing waits until it is heard
                with suppress(queue.Empty):
                    self._queue.get_nowait()
                    self.passed_over += 1
            try:
                self._queue.put(item, timeout=POLL)
                self._waiting = item
                return
            except queue.Full:
                continue
