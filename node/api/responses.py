"""What every answer of the API looks like: JSON, and one form of error for all routes.

    {"error": {"message": a sentence, "type": of what kind, "param": which field, or null, "code": one word}}

is the form that OpenAI's clients expect, so that theirs and ours read the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

from protocol.rejection import Blame, Reason, Rejected

_STATUS_OF_REASON: Final = {Reason.BUSY: 503, Reason.NOT_FOUND: 404, Reason.TOO_LARGE: 413, Reason.OVER_BUDGET: 429}
_STATUS_OF_BLAME: Final = {Blame.USER: 400, Blame.SENDER: 400, Blame.AUTHOR: 409, Blame.NOBODY: 409}
_TYPE_OF_STATUS: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused with a status; ``param`` is the field that is to blame."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    def facts(self) -> dict[str, Any]:
        kind = _TYPE_OF_STATUS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return json_response(self.facts(), self.status, self.headers)


def api_error(error: Rejected) -> ApiError:
    """A refusal as an answer: its code and sentence, and the status that fits."""
    status = _STATUS_OF_REASON.get(error.reason, _STATUS_OF_BLAME[error.reason.blame])
    return ApiError(status, error.reason.code, str(error), headers={"retry-after": "1"} if status == 503 else None)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")
