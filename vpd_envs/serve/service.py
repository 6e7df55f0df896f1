"""The routes of a server: its environment's problems, verdicts on answers, and sessions."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sandbox.core import SandboxError
from vpd_envs.catalog import CATALOG
from vpd_envs.data.provenance import own_version
from vpd_envs.feedback import FeedbackSource
from vpd_envs.serve.judging import Judging, Refused
from vpd_envs.serve.messages import Action, Answer, Observation, State
from vpd_envs.serve.session import Session
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Verdict

RETRY = {"Retry-After": "1"}
LARGEST_PAGE = 10_000
IDLE_CODE = 1001  # of a WebSocket: "going away"
JUDGE_FORM = 'a JSON list of {"problem_id": text, "answer": text}, sent as application/json'


@dataclass(frozen=True)
class Bounds:
    """How much a server takes at a time."""

    queue: int = 1024
    """Answers that are accepted and not yet answered; so many a request may have, too."""
    sessions: int = 64
    session_seconds: float = 1800.0
    """After so long without a message a session is closed."""
    request_bytes: int = 8 << 20
    answer_characters: int = 1_000_000


class Json(JSONResponse):
    """ASCII, so that any text can be sent: a lone surrogate, too, which UTF-8 does not have."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Service:
    """An environment over HTTP. `app` is what a server of ASGI runs.

    name: the environment's id.
    """

    def __init__(
        self, name: str, env: TextEnv, sources: Sequence[FeedbackSource], bounds: Bounds
    ) -> None:
        self.name = name
        self.env = env
        self.bounds = bounds
        self.judging = Judging(env, sources, bounds.queue)
        self.sessions = 0
        self._replying = 0  # sessions whose client waits for a reply
        self.app = self._app()

    @property
    def busy(self) -> bool:
        """Whether an answer was accepted, or a message of a session came, and has no reply yet."""
        return self.judging.length + self._replying > 0

    def _app(self) -> FastAPI:
        most = self.bounds.request_bytes
        app = FastAPI(title=f"vpd serve {self.name}", version=own_version(), max_body_size=most)
        app.add_exception_handler(RequestValidationError, _invalid)
        app.add_exception_handler(400, _unreadable)
        app.add_api_route("/health", self.health)
        app.add_api_route("/metadata", self.metadata)
        app.add_api_route("/schema", self.schema)
        app.add_api_route("/problems", self.problems)
        app.add_api_route("/problems/{problem_id:path}", self.problem)
        app.add_api_route("/judge", self.judge, methods=["POST"])
        app.add_api_websocket_route("/ws", self.session)
        return app

    async def health(self) -> Json:
        """Whether answers are taken, and how many wait; status 503 while the server is ending."""
        judging = self.judging
        told = {
            "ok": not judging.draining,
            "status": "draining" if judging.draining else "healthy",
            "environment": self.name,
            "fingerprint": self.env.fingerprint,
            "problems": len(self.env.problem_ids),
            "side_by_side": self.env.workers,
            "queue_length": judging.length,
            "queue_capacity": judging.capacity,
            "sessions": self.sessions,
            "session_capacity": self.bounds.sessions,
            "max_request_bytes": self.bounds.request_bytes,
            "max_answer_characters": self.bounds.answer_characters,
            "judged": judging.judged,
            "failed": judging.failed,
        }
        return Json(told, 503 if judging.draining else 200)

    async def metadata(self) -> Json:
        """What OpenEnv asks of an environment: its name and description."""
        asks = next((entry.asks for entry in CATALOG if entry.id == self.name), None)
        described = asks or " ".join(
            (inspect.getdoc(type(self.env)) or "").split("\n\n")[0].split()
        )
        return Json({"name": self.name, "description": described, "version": own_version()})

    async def schema(self) -> Json:
        """The JSON schemas of the messages of a session."""
        kinds = {"action": Action, "observation": Observation, "state": State}
        return Json({name: kind.model_json_schema() for name, kind in kinds.items()})

    async def problems(
        self,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 1000,
    ) -> Json:
        """The ids of problems, a page of them."""
        ids = self.env.problem_ids
        page = ids[offset : offset + limit]
        return Json({"total": len(ids), "offset": offset, "problem_ids": page})

    def problem(self, problem_id: str) -> Json:
        """The prompt of a problem, as a text and as chat messages."""
        try:
            found = self.env.problem(problem_id)
            shown = {"problem_id": found.id, "prompt": found.prompt, "messages": found.messages}
        except ValueError as error:
            raise HTTPException(404, _unknown(error)) from error
        except SandboxError as error:
            raise HTTPException(503, str(error), RETRY) from error
        return Json(shown)

    async def judge(self, answers: list[Answer]) -> Json:
        """A verdict for each answer, in their order. An answer that could not be judged has the
        reward null and an `error`."""
        if len(answers) > self.bounds.queue:
            raise HTTPException(
                413, f"Expected at most {self.bounds.queue} answers a request, got {len(answers)}."
            )
        try:
            with self.judging.places(len(answers)):
                attempts = await asyncio.to_thread(self._attempts, answers)
                verdicts = await self.judging.verdicts(attempts)
        except (Refused, SandboxError) as error:
            raise HTTPException(503, str(error), RETRY) from error
        return Json([_row(a.problem_id, v) for a, v in zip(answers, verdicts, strict=True)])

    def _attempts(self, answers: Sequence[Answer]) -> list[tuple[Problem, str]]:
        longest = self.bounds.answer_characters
        attempts = []
        for i, answer in enumerate(answers):
            if len(answer.text) > longest:
                raise HTTPException(
                    413,
                    f"Expected answers of at most {longest} characters; answer {i} has "
                    f"{len(answer.text)}.",
                )
            try:
                attempts.append((self.env.problem(answer.problem_id), answer.text))
            except ValueError as error:
                raise HTTPException(422, f"Answer {i}: {_unknown(error)}") from error
        return attempts

    async def session(self, socket: WebSocket) -> None:
        """Episodes of an OpenEnv client, until it closes or says nothing for too long."""
        if self.judging.draining or self.sessions >= self.bounds.sessions:
            full = f"All {self.bounds.sessions} sessions are taken, or the server is ending."
            await socket.send_denial_response(Json({"detail": full}, 503, RETRY))
            return
        self.sessions += 1
        try:
            await socket.accept()
            await self._converse(socket)
        except WebSocketDisconnect:
            pass
        finally:
            self.sessions -= 1

    async def _converse(self, socket: WebSocket) -> None:
        session = Session(self.judging, self.bounds.answer_characters)
        while True:
            seconds = self.bounds.session_seconds
            try:
                text = await asyncio.wait_for(socket.receive_text(), seconds)
            except TimeoutError:
                reason = f"No message for {seconds:g} seconds: the session is over."
                return await socket.close(IDLE_CODE, reason)
            self._replying += 1
            try:
                said = await session.replied(text)
                if said is None:
                    return await socket.close()
                await socket.send_text(json.dumps(said))
            finally:
                self._replying -= 1


async def _unreadable(request: Request, error: Exception) -> Json:
    """What a request is told whose body no parser could read."""
    return Json({"detail": f"The body could not be read. Expected {JUDGE_FORM}."}, 400)


async def _invalid(request: Request, error: Exception) -> Json:
    """What a request is told whose body or query is not what was expected."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    reason = first.get("ctx", {}).get("error", "")
    detail = f"{place}: {first['msg']}{f' ({reason})' if reason else ''}."
    expected = f" Expected {JUDGE_FORM}." if request.method == "POST" else ""
    return Json({"detail": detail + expected}, 422)


def _unknown(error: ValueError) -> str:
    """What is said of a problem that there is not."""
    return f"{error} Here, GET /problems has them."


def _row(problem_id: str, verdict: Verdict | SandboxError) -> dict[str, Any]:
    row: dict[str, Any] = {"problem_id": problem_id}
    if isinstance(verdict, Verdict):
        row |= {"reward": verdict.reward, "status": verdict.status.value}
        return row | {"feedback": verdict.feedback}
    return row | dict.fromkeys(("reward", "status", "feedback")) | {"error": str(verdict)}
