"""Bodies of requests: read within a bound and a time, and decoded strictly."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final, TypeVar

import msgspec
import trio
from starlette.requests import Request

from node.api.responses import ApiError
from node.api.times import ApiTimes
from protocol.rejection import Reason, Rejected

BODY_BYTES_MAX: Final = 64 * 1024  # a prompt of 12,000 characters of four bytes, and its frame

T = TypeVar("T")


async def read_body(request: Request, limit_bytes: int = BODY_BYTES_MAX) -> bytes:
    """The whole body. Raises ``Rejected(TOO_LARGE)`` as soon as it is over the bound, ``ApiError(408)`` when it is late."""
    body = bytearray()
    times: ApiTimes = request.app.state.times
    with trio.move_on_after(times.body_seconds) as patience:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit_bytes:
                    raise Rejected(Reason.TOO_LARGE, f"at most {limit_bytes} bytes")
    if patience.cancelled_caught:
        message = f"The body did not come within {times.body_seconds:g} s; send it at once."
        raise ApiError(408, "timeout", message, headers={"connection": "close"})
    return bytes(body)


def decode_request(body: bytes, kind: type[T]) -> T:
    """A JSON body as what it should be; raises ``Rejected(BAD_ARGUMENT)``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.BAD_ARGUMENT, f"the request is not as it should be: {error}") from None
