"""A small Hugging Face Hub for tests: real protocol, no network, and faults on demand."""

from hub_server.faults import (
    Corrupt,
    Cut,
    Fault,
    Headers,
    Hook,
    IgnoreRange,
    OtherETag,
    OtherRange,
    Redirect,
    Reset,
    Rule,
    ShortBody,
    Slow,
    Status,
    WrongContentRange,
)
from hub_server.log import Request, Totals
from hub_server.server import HubServer

__all__ = [
    "Corrupt",
    "Cut",
    "Fault",
    "Headers",
    "Hook",
    "HubServer",
    "IgnoreRange",
    "OtherETag",
    "OtherRange",
    "Redirect",
    "Request",
    "Reset",
    "Rule",
    "ShortBody",
    "Slow",
    "Status",
    "Totals",
    "WrongContentRange",
]
