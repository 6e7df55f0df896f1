"""Runs untrusted Python programs and reports what happened; see `core`."""

from sandbox.core import (
    MIB,
    Backend,
    Cage,
    CageFailure,
    Call,
    Cancelled,
    Execution,
    ExecutionStatus,
    Job,
    Limits,
    Sandbox,
    SandboxError,
    cancellation,
    cancelled_by,
)
from sandbox.factory import backends, make, shared

__all__ = [
    "MIB",
    "Backend",
    "Cage",
    "CageFailure",
    "Call",
    "Cancelled",
    "Execution",
    "ExecutionStatus",
    "Job",
    "Limits",
    "Sandbox",
    "SandboxError",
    "backends",
    "cancellation",
    "cancelled_by",
    "make",
    "shared",
]
