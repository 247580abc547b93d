"""Logs: one JSON object per line, without the messages and local variables of exceptions."""

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.logs import configure_logging, get_logger, recent_events
from tests.support.logging_reset import logging_as_before

Configure = Callable[..., StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configure logging to a stream of the test, and undo it afterwards."""

    def apply(level: str = "info", log_format: str | None = "json", stream: StringIO | None = None) -> StringIO:
        stream = stream or StringIO()
        configure_logging(level, log_format, stream)
        return stream

    with logging_as_before():
        yield apply


def new_logger() -> Any:
    # A logger keeps the configuration that it was first used with.
    return get_logger(f"tests.{uuid4()}")


def lines(stream: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_logger(configure: Configure) -> None:
    stream = configure()
    new_logger().info("keys loaded", keys=4, text="two\nlines", odd={1, 2}, uni="ü\u2028")
    (line,) = lines(stream)
    assert stream.getvalue().count("\n") == 1
    assert line["event"] == "keys loaded"
    assert line["level"] == "info"
    assert line["logger"].startswith("tests.")
    assert line["timestamp"].endswith("Z")
    assert (line["keys"], line["text"], line["uni"]) == (4, "two\nlines", "ü\u2028")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_us_and_for_others(configure: Configure, level: str, count: int) -> None:
    stream = configure(level)
    for logger in (new_logger(), logging.getLogger("tests.foreign")):
        for name in ("debug", "info", "warning", "error"):
            getattr(logger, name)("event")
    assert [line["level"] for line in lines(stream)] == ["debug", "info", "warning", "error"][-count:] * 2


def test_lines_of_other_libraries_look_the_same(configure: Configure) -> None:
    stream = configure()
    logging.getLogger("tests.foreign").warning("%d things", 3)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("3 things", "warning", "tests.foreign")


def fail_with(error: Exception) -> None:
    local = "kept-secret"
    assert local
    raise error


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_as_type_and_traceback(configure: Configure, log_format: str) -> None:
    stream = configure(log_format=log_format)
    for logger in (new_logger(), logging.getLogger("tests.foreign")):
        try:
            fail_with(ValueError("kept-secret"))
        except ValueError as error:
            logger.exception("it failed")
            for exc_info in (error, (type(error), error, error.__traceback__)):
                logger.warning("it failed", exc_info=exc_info)
    text = stream.getvalue()
    assert "kept-secret" not in text
    assert "Traceback" not in text
    assert text.count("it failed") == text.count("ValueError") == 6
    assert text.count("test_logs.py") >= 6
    if log_format == "json":
        assert [line["traceback"][-1].rpartition(" ")[2] for line in lines(stream)] == ["fail_with"] * 6


def test_the_message_of_our_own_exceptions_is_logged(configure: Configure) -> None:
    stream = configure()
    try:
        fail_with(ConfigurationError("BIDSTREAM_LISTEN: wrong"))
    except ConfigurationError:
        new_logger().exception("it failed")
    (line,) = lines(stream)
    assert (line["exception"], line["error"]) == ("ConfigurationError", "BIDSTREAM_LISTEN: wrong")


def test_an_exception_that_was_not_raised_has_no_traceback(configure: Configure) -> None:
    stream = configure()
    new_logger().error("no exception at all", exc_info=True)
    new_logger().error("not raised", exc_info=ValueError("kept-secret"))
    without, unraised = lines(stream)
    assert "exception" not in without
    assert (unraised["exception"], unraised["traceback"]) == ("ValueError", [])


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_the_format_follows_the_terminal_unless_told(configure: Configure) -> None:
    def text(log_format: str | None, stream: StringIO) -> str:
        configure(log_format=log_format, stream=stream)
        new_logger().info("event", number=1)
        return stream.getvalue()

    assert text(None, StringIO()).startswith("{")
    assert text("json", _Terminal()).startswith("{")
    assert "\x1b[" in text(None, _Terminal())
    plain = text("console", StringIO())
    assert "number=1" in plain
    assert "\x1b[" not in plain
    assert not plain.startswith("{")


def test_access_lines_and_socket_names_of_libraries_are_not_logged(configure: Configure) -> None:
    stream = configure("debug")
    logging.getLogger("aiohttp.access").info("POST /decrypt")
    logging.getLogger("asyncio").debug("<socket.socket ...>")
    assert stream.getvalue() == ""


def test_the_last_events_are_kept_as_they_were_written(configure: Configure) -> None:
    stream = configure("info")
    log = new_logger()
    log.debug("not written")
    for number in range(300):
        log.info("written", number=number)
    kept = recent_events()
    assert [event["number"] for event in kept] == list(range(100, 300))
    assert kept == lines(stream)[-200:]


def test_a_kept_event_has_no_message_of_an_error_and_a_short_traceback(configure: Configure) -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise ValueError("a token")

    configure()
    try:
        fail(50)
    except ValueError:
        new_logger().exception("failed")
    kept = recent_events()[-1]
    assert kept["exception"] == "ValueError"
    assert "a token" not in str(kept)
    assert len(kept["traceback"]) == 20
