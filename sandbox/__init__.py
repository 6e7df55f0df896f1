"""Runs untrusted Python programs and reports what happened; see `core`."""

from sandbox.core import (
    MIB,
    Call,
    Execution,
    ExecutionStatus,
    Job,
    Limits,
    Sandbox,
    SandboxError,
    backends,
    make,
    shared,
)

__all__ = [
    "MIB",
    "Call",
    "Execution",
    "ExecutionStatus",
    "Job",
    "Limits",
    "Sandbox",
    "SandboxError",
    "backends",
    "make",
    "shared",
]
