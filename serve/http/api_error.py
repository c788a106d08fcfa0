"""Every error on the wire: one clear line in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from lts_ray.errors import LtsRayError
from serve.engine.engine_errors import BudgetInfeasibleError, EngineFailedError, QueueFullError
from serve.http.response_schemas import ErrorDetails, ErrorResponse


class ApiError(LtsRayError):
    """param: the field or header that is wrong. details: further keys of the error object."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(_encodable(" ".join(message.split())))
        self.status, self.kind, self.code = status, kind, code
        self.param = None if param is None else _encodable(param)
        self.headers, self.details = dict(headers or {}), dict(details or {})

    def body(self) -> dict[str, Any]:
        error = ErrorDetails(message=str(self), type=self.kind, param=self.param, code=self.code, **self.details)
        return ErrorResponse(error=error).model_dump(exclude_unset=True)

    def answer(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def server_failure() -> ApiError:
    """Of what nothing else stands for: the log has its traceback, and the client needs no more than this."""
    return ApiError("the server failed; see its log", status=500, kind="server_error")


def _encodable(text: str) -> str:
    """A client's own words may be in it, and they may hold halves of a surrogate pair."""
    return text.encode(errors="backslashreplace").decode()


def as_api_error(error: LtsRayError) -> ApiError:
    """What the engine refused, on the wire."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(
                str(error),
                status=429,
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(error.retry_after_s)},
            )
        case BudgetInfeasibleError():
            return ApiError(
                str(error),
                status=429,
                kind="rate_limit_error",
                code="budget_infeasible",
                headers={"Retry-After": str(error.retry_after_s)},
                details={"smallest_feasible_budget_ms": error.smallest_feasible_ms},
            )
        case EngineFailedError():
            return ApiError(str(error), status=503, kind="server_error", code="engine_failed")
    return ApiError(str(error))
