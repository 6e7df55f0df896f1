"""Runs untrusted Python programs and reports what happened; see `core`."""

from sandbox.core import (
    MIB,
    Call,
    Cancelled,
    Execution,
    ExecutionStatus,
    Job,
    Limits,
    Sandbox,
    SandboxError,
    backends,
    cancelled_by,
    make,
    shared,
)

__all__ = [
    "MIB",
    "Call",
    "Cancelled",
    "Execution",
    "ExecutionStatus",
    "Job",
    "Limits",
    "Sandbox",
    "SandboxError",
    "backends",
    "cancelled_by",
    "make",
    "shared",
]
