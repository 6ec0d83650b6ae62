"""What C code prints stays off the terminal, and what we print in the meantime does not get lost."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading

from stereo.cli.shared import say
from stereo.quiet import silence_ffmpeg, stderr_diverted


def test_lines_of_other_threads_wait_until_stderr_is_back(capfd):
    handler = logging.StreamHandler(sys.stderr)  # pytest's own handlers write elsewhere
    logging.getLogger().addHandler(handler)
    diverted, go_on = threading.Event(), threading.Event()
    kept = []

    def decode():
        with stderr_diverted() as file:
            diverted.set()
            assert go_on.wait(10)
            os.write(2, b"libjpeg complains\n")
            file.seek(0)
            kept.append(file.read())

    def speak():
        logging.getLogger("stereo").warning("a line of the log")
        say(argparse.Namespace(json=True), "a line for people")

    try:
        threads = [threading.Thread(target=decode), threading.Thread(target=speak)]
        threads[0].start()
        assert diverted.wait(10)
        threads[1].start()
        threads[1].join(0.2)
        assert threads[1].is_alive(), "it waits"
        go_on.set()
        for thread in threads:
            thread.join(10)
    finally:
        logging.getLogger().removeHandler(handler)
    assert kept == [b"libjpeg complains\n"]
    assert capfd.readouterr().err.splitlines() == ["a line of the log", "a line for people"]


def test_ffmpeg_is_silenced_unless_the_user_wants_to_hear_it(monkeypatch):
    monkeypatch.delenv("OPENCV_FFMPEG_LOGLEVEL", raising=False)
    silence_ffmpeg()
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "-8"
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "48")
    silence_ffmpeg()
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "48"
