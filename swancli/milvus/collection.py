"""Milvus collections: their addresses, connections to them, and the record of who made their vectors."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from swancli.errors import SwanError, import_error, outside_cause
from swancli.store.made_by import MadeBy

if TYPE_CHECKING:
    from pymilvus import MilvusClient

FORMAT, VERSION = "swan-collection", 2
CARD = "swan"  # property of a collection that records what made it; Lite keeps no description
TOKEN = "SWAN_MILVUS_TOKEN"  # environment variable: user:password, or the key of a cloud
FORMS = (
    "give milvus:// (milvus.db under the root), milvus://FILE.db, milvus:///FOLDER/FILE.db, or "
    "milvus://[USER:PASSWORD@]HOST:PORT[/DATABASE]; append ?collection=NAME, or for a cluster ?tls=true"
)
CLUSTER = re.compile(r"(?:(?P<token>.+)@)?(?P<host>[\w.-]+):(?P<port>\d{1,5})/?(?P<database>\w*)")
LITE_HAS = {"LOCK", "collections", "databases"}  # entries of the folder of a Milvus Lite database
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
OTHER_COLLECTION = "name another: ?collection=NAME"
TO_CONNECT, TO_ANSWER = 5, 60  # seconds to wait for a cluster


@dataclass(frozen=True)
class Address:
    """Where a collection is. As text, for messages, it does not contain the token.

    uri: path of a Lite database, which ends in .db, or http://HOST:PORT.
    collection: its name.
    database: its database in a cluster; "" for the default one.
    token: user:password, or a key; "" for none.
    """

    uri: str
    collection: str = "swan"
    database: str = ""
    token: str = field(default="", repr=False)

    @property
    def is_lite(self) -> bool:
        """Whether the database is Milvus Lite, which runs in this process."""
        return self.uri.endswith(".db")

    def __str__(self) -> str:
        place = self.uri.partition("://")[2] or self.uri
        database = f"/{self.database}" if self.database else ""
        tls = "&tls=true" if self.uri.startswith("https:") else ""
        return f"milvus://{place}{database}?collection={self.collection}{tls}"


def parse_address(text: str, root: str | PathLike[str]) -> Address:
    """Parses an address in one of `FORMS`.

    Args:
        text: the address.
        root: folder of the database of milvus:// alone.

    Raises:
        SwanError: it is none of these forms; the message shows no password and no unknown options.
    """
    start, _, query = text.partition("?")
    shown = re.sub(r"//.*@", "//***@", start)
    options = {"collection": "swan", "tls": "false", **dict(parse_qsl(query, keep_blank_values=True))}
    collection, tls = options["collection"], options["tls"]
    place = start.removeprefix("milvus://")
    cluster = CLUSTER.fullmatch(place)
    if cluster and int(cluster["port"]) > 65_535:
        raise SwanError(f"{shown}: there is no port {cluster['port']}", FORMS)
    lite = not cluster and "@" not in place and (not place or place.endswith(".db"))
    understood = start.startswith("milvus://") and len(options) == 2
    if not understood or not (cluster or lite) or (lite and tls != "false"):
        raise SwanError(f"{shown}: not an address of a vector database", FORMS)
    if not NAME.fullmatch(collection):
        problem = f"{shown}?collection={collection}: not a name for a collection"
        raise SwanError(problem, "letters, digits and _ only, a letter or _ first")
    if tls not in ("true", "false"):
        raise SwanError(f"{shown}?tls={tls}: neither true nor false", "give tls=true, or leave it out")
    if lite:
        return Address(str(Path(place).expanduser() if place else Path(root) / "milvus.db"), collection)
    token = unquote(cluster["token"]) if cluster["token"] else os.environ.get(TOKEN, "")
    uri = f"{'https' if tls == 'true' else 'http'}://{cluster['host']}:{cluster['port']}"
    return Address(uri, collection, cluster["database"], token)


def load_pymilvus() -> None:
    """Imports pymilvus and silences its log, which repeats its errors.

    Raises:
        SwanError: the extra `milvus` is not installed.
    """
    try:
        import milvus_lite  # noqa: F401
        import pymilvus  # noqa: F401
    except ImportError as error:
        raise import_error(error, "milvus://", "milvus") from error
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def connected(address: Address) -> Iterator[MilvusClient]:
    """A connection to a database; errors of Milvus in its body become a `SwanError`.

    Raises:
        SwanError: the database cannot be opened or reached, or a request failed.
    """
    load_pymilvus()
    import grpc
    from pymilvus import MilvusClient, MilvusException

    options = {"token": address.token, "db_name": address.database, "timeout": TO_CONNECT}
    if address.is_lite:
        _refuse_other_folder(Path(address.uri))
        Path(address.uri).parent.mkdir(parents=True, exist_ok=True)
        # Lite listens on loopback; a proxy set in the environment would lead elsewhere.
        options = {"grpc_options": {"grpc.enable_http_proxy": 0}}
    try:
        client = MilvusClient(address.uri, **options)
    except (MilvusException, grpc.RpcError) as error:
        if address.is_lite:
            raise _not_opened_error(address) from error
        hint = "check that it runs, and the address, the user, the password and the database"
        raise SwanError(f"{address}: cannot be reached ({reason_of(error)})", hint) from error
    try:
        yield client
    except (MilvusException, grpc.RpcError) as error:
        raise SwanError(f"{address}: {reason_of(error)}") from error
    finally:
        client.close()
        if address.is_lite:
            _release(address)


def _refuse_other_folder(path: Path) -> None:
    """Raises SwanError if a folder contains something else; Lite would write into it."""
    entries = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if entries and not entries & LITE_HAS:
        raise SwanError(f"{path}: a folder that is not a Milvus Lite database", "give another FILE.db")


def _release(address: Address) -> None:
    """Stops Lite in this process, so that others can open the database."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(address.uri)


def _not_opened_error(address: Address) -> SwanError:
    """For a Lite database that cannot be opened: the reason, which pymilvus does not report."""
    from milvus_lite import MilvusLite
    from milvus_lite.exceptions import DataDirLockedError

    _release(address)
    try:
        MilvusLite(address.uri).close()
    except DataDirLockedError:
        return SwanError(
            f"{address.uri}: another program has it open",
            "wait until it ends; Milvus Lite serves one program at a time, a cluster many",
        )
    except FileExistsError as error:  # it is a file, and a database is a folder
        return SwanError(f"{address.uri}: not a Milvus Lite database ({error})", "give another FILE.db")
    except Exception as error:
        if found := outside_cause(error, address.uri, "opened"):
            return found
        return SwanError(f"{address.uri}: not a Milvus Lite database ({error})", "give another FILE.db")
    return SwanError(f"{address.uri}: Milvus Lite does not start", "run it again")


def reason_of(error: Exception) -> str:
    """The message of a Milvus error, in one line."""
    details = error.details() if hasattr(error, "details") else ""  # of gRPC, whose text fills a page
    text = details or getattr(error, "message", "") or str(error)
    return " ".join(str(text).split())[:300]


def patience(address: Address) -> float | None:
    """Seconds until a request fails; None for Lite, which is always there, and may have much to write."""
    return None if address.is_lite else TO_ANSWER


def card_text(made_by: MadeBy) -> str:
    """The record, as JSON, of the checkpoint that made a collection's vectors; paths are absolute."""
    paths = {name: getattr(made_by, name) for name in ("checkpoint", "vocab")}
    paths = {name: path and str(Path(path).resolve()) for name, path in paths.items()}
    return json.dumps({"format": FORMAT, "version": VERSION, **asdict(made_by), **paths})


def read_card(client: MilvusClient, address: Address) -> MadeBy | None:
    """The checkpoint that made the vectors of a collection; None if there is no collection.

    Raises:
        SwanError: another program made the collection, or another version of swan.
    """
    if not client.has_collection(address.collection):
        return None
    found = client.describe_collection(address.collection)
    try:
        content = json.loads(found.get("properties", {}).get(CARD) or found.get("description", ""))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError
        return MadeBy(**{one.name: content[one.name] for one in fields(MadeBy)})
    except (ValueError, KeyError, TypeError):
        problem = f"{address}: a collection that this swan did not make"
        raise SwanError(problem, OTHER_COLLECTION) from None


def check_target(address: Address, made_by: MadeBy) -> None:
    """Checks, before an hour of encoding, that the vectors of a checkpoint can be uploaded to an address.

    Raises:
        SwanError: it cannot be reached, or its collection contains vectors of another checkpoint.
    """
    with connected(address) as client:
        if found := read_card(client, address):
            found.check(made_by, address, OTHER_COLLECTION)


def count_images(client: MilvusClient, address: Address, condition: str = "") -> int:
    """The number of images in a collection that meet a condition, as Milvus spells it; "" for all."""
    options = {"output_fields": ["count(*)"], "timeout": patience(address)}
    return client.query(address.collection, filter=condition, **options)[0]["count(*)"]
