"""`vpd serve`: an environment over HTTP."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from sandbox.signals import Stopped, StopSignals
from vpd_envs.checks import check_integer, check_positive
from vpd_envs.cli import add_environment_flags, opened_environment, start_sandbox
from vpd_envs.data.progress import told_if_slow
from vpd_envs.feedback import FeedbackSource, SelfCritique, named_sources
from vpd_envs.serve.server import Server, bound
from vpd_envs.serve.service import Bounds, Service

_DEFAULT = Bounds()
_EPILOG = """\
GET  /health           whether it takes answers, environment, fingerprint, queue, limits
GET  /problems         the ids, ?offset=0&limit=1000
GET  /problems/ID      the prompt of one, as a text and as chat messages
POST /judge            [{"problem_id": …, "answer": …}, …]: a verdict for each, in their order,
                       {"problem_id", "reward", "status", "feedback"}; where the infrastructure
                       failed these are null and "error" says why
WS   /ws               sessions of OpenEnv's clients; GET /schema has their messages
GET  /openapi.json     all these, as OpenAPI describes them

A full queue is told by status 503 with Retry-After, what is too large by 413, what is malformed by
422 or 400. There is no authentication: serve to machines that you trust.

Ctrl-C or SIGTERM ends the server after the answers that it has accepted; Ctrl-C twice ends at once.

exit codes: 0 every accepted answer was answered; 1 no sandbox works; 2 bad input; 130 (Ctrl-C) or
143 (SIGTERM) stopped before it served, or at once."""


def serve(arguments: list[str]) -> int:
    """`vpd serve`: runs until a signal ends it."""
    options = _parser().parse_args(arguments)
    bounds, sources = _bounds(options), _sources(options.feedback)
    server: Server | None = None
    try:
        with (
            closing(bound(options.host, options.port)) as listener,
            StopSignals(),
            opened_environment(options, split=options.split) as env,
        ):
            start_sandbox(env)
            with told_if_slow("Computing the fingerprint"):
                _ = env.fingerprint  # kept for /health
            server = Server(Service(options.env, env, sources, bounds), _say)
            server.serve_on(listener)
    except Stopped as stopped:
        return 0 if server is not None and server.ended_well else 128 + stopped.signal
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vpd serve",
        description="Serve an environment over HTTP, to trainers in any language.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_environment_flags(parser)
    parser.add_argument("--split", help="which problems, such as train or test")
    parser.add_argument(
        "--feedback",
        metavar="NAMES",
        help="sources of feedback, from the innermost to the outermost, such as first+budget; "
        "those that compare answers see those of one request to /judge",
    )
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free (8000)")
    _add_bounds(parser)
    return parser


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    default = _DEFAULT
    for flag, kind, value, meaning in (
        ("--queue", int, default.queue, "answers accepted and not yet answered, of all clients"),
        ("--sessions", int, default.sessions, "sessions at a time"),
        ("--session-timeout", float, default.session_seconds, "seconds until an idle one ends"),
        ("--max-request-mb", float, default.request_bytes / (1 << 20), "of a body or message"),
        ("--max-answer-characters", int, default.answer_characters, "of an answer"),
    ):
        help_text = f"{meaning} (default: {value:g})"
        parser.add_argument(flag, type=kind, default=value, metavar="N", help=help_text)


def _bounds(options: argparse.Namespace) -> Bounds:
    """Raises ValueError for a bound that is none."""
    check_integer("--queue", options.queue, 1)
    check_integer("--sessions", options.sessions, 0)
    check_integer("--max-answer-characters", options.max_answer_characters, 1)
    check_positive(
        **{
            "--session-timeout": options.session_timeout,
            "--max-request-mb": options.max_request_mb,
        }
    )
    if not 0 <= options.port < 1 << 16:
        raise ValueError(f"--port must be from 0 to 65535, got {options.port}.")
    return Bounds(
        queue=options.queue,
        sessions=options.sessions,
        session_seconds=options.session_timeout,
        request_bytes=max(int(options.max_request_mb * (1 << 20)), 1),
        answer_characters=options.max_answer_characters,
    )


def _sources(names: str | None) -> list[FeedbackSource]:
    """Raises ValueError for a source that is not known, or that asks the policy in training."""
    sources = [] if names is None else named_sources(names)
    if any(isinstance(source, SelfCritique) and source.critic is None for source in sources):
        raise ValueError(
            f"--feedback {names} asks the policy that is trained, and a server has none. Take "
            "judge:base_url=…,model=…, which asks a model behind an endpoint."
        )
    return sources


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
