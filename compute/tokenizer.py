"""Text <-> token ids: every byte is a token, and a few ids above 255 are special.

    0..255   bytes         256 END: between documents, and before a prompt         257 PAD: fills batches, never trained
    258...   unused ids of a larger vocabulary; they decode to nothing

Any file is trainable and nothing has to be downloaded. Any sequence of ids decodes: what is no UTF-8 becomes U+FFFD,
special and unknown ids become nothing.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import numpy
from numpy.typing import NDArray

BYTE_TOKENS = 256
END = 256
PAD = 257
VOCABULARY_MIN = 258
"""All bytes, END and PAD."""

SEPARATOR_BYTE = 0
"""NUL, which `compute.data` puts after every document: END once tokens are made of it."""


def tokens_of_bytes(text: NDArray[numpy.uint8]) -> NDArray[numpy.int64]:
    """Bytes of a data set, of any shape, as token ids: separators become END."""
    tokens = text.astype(numpy.int64)
    tokens[text == SEPARATOR_BYTE] = END
    return tokens


def encode(text: str) -> list[int]:
    """The ids of a prompt: END, as if a document began, then its UTF-8 bytes. Lone surrogates become question marks."""
    return [END, *(byte for byte in text.encode("utf-8", "replace"))]


def decode(tokens: Iterable[int]) -> str:
    """The text of any ids, whole."""
    return bytes(token for token in tokens if 0 <= token < BYTE_TOKENS).decode("utf-8", "replace")


class StreamDecoder:
    """Text of tokens as they come: a character appears once its last byte has; the parts joined equal `decode` of all."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that became complete with this token; often empty."""
        return self._decoder.decode(bytes([token])) if 0 <= token < BYTE_TOKENS else ""

    def finish(self) -> str:
        """What is left at the end: U+FFFD if the last character was cut, else nothing."""
        return self._decoder.decode(b"", final=True)
