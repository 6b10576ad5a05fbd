"""A member's three keys on disk, and the one line of text that introduces it to others.

    plain       32 bytes: the Ed25519 seed
    encrypted   "nock-key-1\n" | salt 16 | nonce 24 | secretbox of the seed 48        99 bytes

    the box's key = argon2id(passphrase, salt), 2 passes over 64 MiB (libsodium's "interactive": 0.1 s a guess)

Files have mode 0600 and are refused when others could read them. Public cards travel as "nock1" and base32: letters and
digits only, so that a double click selects the whole of it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.codec import decode, encode
from protocol.ids import PeerId
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard, check_member_card

KEY_NAMES: Final = ("node", "vote", "account")
PASSPHRASE_VARIABLE: Final = "NOCKNODE_PASSPHRASE"
CARD_PREFIX: Final = "nock1"
CARD_BYTES_MAX: Final = 512  # three keys and three signatures: 301 bytes

_MAGIC = b"nock-key-1\n"
_SALT_BYTES = 16
_ENCRYPTED_BYTES = len(_MAGIC) + _SALT_BYTES + 24 + 16 + 32

AskPassphrase = Callable[[], str]


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The three key pairs of one member."""

    node: KeyPair
    vote: KeyPair
    account: KeyPair

    @property
    def peer(self) -> PeerId:
        return PeerId(self.node.public)

    def card(self) -> MemberCard:
        """What the roster needs to know: public keys, each signed for by the other two."""
        return MemberCard.bind(self.node, self.vote, self.account)


def find_passphrase(environment: Mapping[str, str] = os.environ) -> str | None:
    """The passphrase in ``NOCKNODE_PASSPHRASE``, if there is one."""
    return environment.get(PASSPHRASE_VARIABLE) or None


def create_keys(directory: Path, passphrase: str | None = None) -> NodeKeys:
    """Make three new keys in ``directory``, encrypted when there is a passphrase.

    Raises ``Rejected(BAD_DATA_DIRECTORY)`` when one exists already (a key is never overwritten), ``OSError``.
    """
    existing = [name for name in KEY_NAMES if _path(directory, name).exists()]
    if existing:
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY,
            f"{_path(directory, existing[0])} exists already and is not overwritten; choose another --data-dir",
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pairs = {}
    for name in KEY_NAMES:
        seed = os.urandom(32)
        _write_private(_path(directory, name), seed if passphrase is None else _encrypt(seed, passphrase))
        pairs[name] = KeyPair(seed)
    return NodeKeys(**pairs)


def have_keys(directory: Path) -> bool:
    """Whether any key is there."""
    return any(_path(directory, name).exists() for name in KEY_NAMES)


def load_keys(
    directory: Path, ask: AskPassphrase | None = None, environment: Mapping[str, str] = os.environ
) -> NodeKeys:
    """Read the three keys. Encrypted ones take the passphrase from the environment, then from ``ask``.

    Raises ``Rejected(BAD_DATA_DIRECTORY)`` with the remedy: a key is missing, of a wrong size, readable by others, or the
    passphrase is wrong. Raises ``OSError`` when the disk fails.
    """
    files = {name: _read_private(_path(directory, name)) for name in KEY_NAMES}
    passphrase = find_passphrase(environment)
    if passphrase is None and any(len(data) != 32 for data in files.values()):
        if ask is None:
            raise Rejected(
                Reason.BAD_DATA_DIRECTORY, f"the keys in {directory} are encrypted; set {PASSPHRASE_VARIABLE}"
            )
        passphrase = ask()
    return NodeKeys(
        **{
            name: KeyPair(data if len(data) == 32 else _decrypt(data, passphrase or "", _path(directory, name)))
            for name, data in files.items()
        }
    )


def check_key_files(directory: Path) -> list[str]:
    """What is wrong with the key files, one sentence each; asks for no passphrase."""
    problems = []
    for name in KEY_NAMES:
        try:
            _read_private(_path(directory, name))
        except Rejected as error:
            problems.append(error.detail)
        except OSError as error:
            problems.append(f"{_path(directory, name)}: {error.strerror}")
    return problems


def card_text(card: MemberCard) -> str:
    """A card as one word: ``nock1...``."""
    return CARD_PREFIX + base64.b32encode(encode(card)).decode().rstrip("=").lower()


def parse_card(text: str) -> MemberCard:
    """The inverse of :func:`card_text`, bindings checked; raises ``Rejected(BAD_ARGUMENT)``."""
    word = text.strip().lower()
    shown = word if len(word) <= 24 else word[:21] + "..."
    if not word.startswith(CARD_PREFIX):
        raise Rejected(
            Reason.BAD_ARGUMENT, f"member {shown!r} does not begin with {CARD_PREFIX}; `nocknode keys new` prints one"
        )
    body = word[len(CARD_PREFIX) :].upper()
    try:
        data = base64.b32decode(body + "=" * (-len(body) % 8))
        card = check_member_card(decode(MemberCard, data, limit_bytes=CARD_BYTES_MAX))
    except (ValueError, Rejected):
        card = None
    if card is None or card_text(card) != word:  # base32 ignores the last bits of the last letter
        raise Rejected(
            Reason.BAD_ARGUMENT,
            f"member {shown!r} is cut short or mistyped: copy the whole word that begins with nock1",
        )
    return card


# -- inside ------------------------------------------------------------------------------------------------------------


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.key"


def _write_private(path: Path, data: bytes) -> None:
    """A new file that only its owner can read, durable; never replaces one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY, f"there is no key {path}; make keys with `nocknode keys new` or `nocknode init`"
        ) from None
    with open(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise Rejected(
                Reason.BAD_DATA_DIRECTORY, f"others can read the key {path} (mode {mode:04o}); run: chmod 600 {path}"
            )
        data = file.read(_ENCRYPTED_BYTES + 1)
    if len(data) != 32 and (len(data) != _ENCRYPTED_BYTES or not data.startswith(_MAGIC)):
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY, f"the key {path} is damaged ({len(data)} bytes); restore it from your backup"
        )
    return data


def _encrypt(seed: bytes, passphrase: str) -> bytes:
    from nacl.secret import SecretBox

    salt = os.urandom(_SALT_BYTES)
    return _MAGIC + salt + bytes(SecretBox(_box_key(passphrase, salt)).encrypt(seed))


def _decrypt(data: bytes, passphrase: str, path: Path) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    salt, boxed = data[len(_MAGIC) : len(_MAGIC) + _SALT_BYTES], data[len(_MAGIC) + _SALT_BYTES :]
    try:
        return bytes(SecretBox(_box_key(passphrase, salt)).decrypt(boxed))
    except CryptoError:
        raise Rejected(Reason.BAD_DATA_DIRECTORY, f"the passphrase does not open the key {path}") from None


def _box_key(passphrase: str, salt: bytes) -> bytes:
    from nacl import pwhash

    return bytes(
        pwhash.argon2id.kdf(
            32,
            passphrase.encode(),
            salt,
            opslimit=pwhash.argon2id.OPSLIMIT_INTERACTIVE,
            memlimit=pwhash.argon2id.MEMLIMIT_INTERACTIVE,
        )
    )
