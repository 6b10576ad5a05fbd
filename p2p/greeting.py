"""The first words of two peers, and those they repeat: who are you, are you there, whom else do you know.

    dialler                              listener
       |  frame: Greeting                   |
       | ---------------------------------> |  check_hello(dialler, hello)
       |  frame: answer Greeting | refusal  |
       | <--------------------------------- |
       |  check_hello(listener, hello)      |
       |  frame: answer empty | refusal     |
       | ---------------------------------> |

Whoever refuses says why, then hangs up. The session tells a restarted peer from a second connection of the same process:
when it differs, everything that belonged to the old session is lost.

Afterwards each asks the other every few seconds for its time and for a handful of its peers. That is all the discovery there
is below the table of records: two peers that joined through a third in the same moment hear of each other one ping later.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from p2p.addresses import ADDRESS_CHARACTERS_MAX
from protocol.codec import Message
from protocol.ids import Natural
from protocol.limits import KIB

SESSION_BYTES: Final = 8
HELLO_BYTES_MAX: Final = 2 * KIB
OTHERS_MAX: Final = 48  # a joiner learns a small network whole from its first peer, a large one from a few
OTHERS_PER_PONG_MAX: Final = 4  # each time others

_Text = Annotated[str, Meta(max_length=ADDRESS_CHARACTERS_MAX)]


class Greeting(Message, frozen=True):
    """What both sides say first."""

    session: Annotated[bytes, Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
    hello: Annotated[bytes, Meta(max_length=HELLO_BYTES_MAX)]  # the node's word; opaque here
    addresses: Annotated[tuple[_Text, ...], Meta(max_length=8)]  # where I listen
    others: Annotated[tuple[_Text, ...], Meta(max_length=OTHERS_MAX)]  # where peers of mine listen: hints


class Ping(Message, frozen=True):
    """Are you there? Whoever has all the connections that it wants asks for nobody else's address."""

    nonce: Natural
    others: Annotated[int, Meta(ge=0, le=OTHERS_PER_PONG_MAX)]  # addresses that the answer may hold


class Pong(Message, frozen=True):
    """I am, and it is this late here."""

    nonce: Natural
    milliseconds: Natural  # since the epoch, by the answerer's clock; 0 when it was given none
    others: Annotated[tuple[_Text, ...], Meta(max_length=OTHERS_PER_PONG_MAX)]
