"""Errors of federated runs: data, configuration and what clients send."""

from __future__ import annotations

from cwmp_profiler.errors import CwmpError


class FederatedError(CwmpError):
    """A run cannot be started, resumed or evaluated as asked. Names what was got and the cure."""


class DataError(FederatedError):
    """A data set is missing, damaged or not the one that its name promises."""


class ReplyError(FederatedError):
    """A client's reply is not a valid update. The strategy leaves the client out of the round and names it."""


PayloadError = ReplyError
"""What `ReplyError` was called; `cwmp_selector.errors.PayloadError` is of bytes that are no payload."""
