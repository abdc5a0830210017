"""A collection of Milvus: its address, the connection to it, and what it says of its vectors."""

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

from swancli.errors import SwanError
from swancli.store.made_by import MadeBy

if TYPE_CHECKING:
    from pymilvus import MilvusClient

FORMAT, VERSION = "swan-collection", 1
CARD = "swan"  # the collection's property that says what it is; Lite keeps no description
TOKEN = "SWAN_MILVUS_TOKEN"  # environment variable: user:password, or a cloud's key
FORMS = (
    "give milvus:// (milvus.db under the root), milvus://FILE.db, milvus:///FOLDER/FILE.db, or "
    "milvus://[USER:PASSWORD@]HOST:PORT[/DATABASE]; each with ?collection=NAME, a cluster's with ?tls=true"
)
CLUSTER = re.compile(r"(?:(?P<token>.+)@)?(?P<host>[\w.-]+):(?P<port>\d{1,5})/?(?P<database>\w*)")
LITE_HAS = {"LOCK", "collections", "databases"}  # in the folder that a database of Milvus Lite is
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
OTHER_COLLECTION = "name another: ?collection=NAME"
TO_CONNECT, TO_ANSWER = 5, 60  # seconds that a cluster is waited for


@dataclass(frozen=True)
class Address:
    """Where a collection is. uri: the path of a Lite database, which ends in .db, or http://HOST:PORT.

    Its text is for people, and holds no token.
    """

    uri: str
    collection: str = "swan"
    database: str = ""
    token: str = field(default="", repr=False)

    @property
    def is_lite(self) -> bool:
        """Whether it is a database of Milvus Lite, embedded in this process."""
        return self.uri.endswith(".db")

    def __str__(self) -> str:
        place = self.uri.partition("://")[2] or self.uri
        database = f"/{self.database}" if self.database else ""
        tls = "&tls=true" if self.uri.startswith("https:") else ""
        return f"milvus://{place}{database}?collection={self.collection}{tls}"


def parse_address(text: str, root: str | PathLike[str]) -> Address:
    """The address that a text of one of `FORMS` stands for.

    Args:
        root: the folder that milvus:// alone has its database in.

    Raises:
        SwanError: it is of no such form; its password, and options that it cannot have, are not shown.
    """
    shown = re.sub(r"//.*@", "//***@", text.partition("?")[0])
    scheme, slashes, rest = text.partition("://")
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    collection, tls = options.pop("collection", "swan"), options.pop("tls", "false")
    cluster = CLUSTER.fullmatch(place)
    if cluster and int(cluster["port"]) > 65_535:
        raise SwanError(f"{shown}: there is no port {cluster['port']}", FORMS)
    lite = not cluster and "@" not in place and (not place or place.endswith(".db"))
    if f"{scheme}{slashes}" != "milvus://" or options or not (cluster or lite) or (lite and tls != "false"):
        raise SwanError(f"{shown}: no address of a vector database", FORMS)
    if not NAME.fullmatch(collection):
        problem = f"{shown}?collection={collection}: no name of a collection"
        raise SwanError(problem, "letters, digits and _ only, a letter or _ first")
    if tls not in ("true", "false"):
        raise SwanError(f"{shown}?tls={tls}: neither true nor false", "give tls=true, or leave it out")
    if lite:
        path = Path(place).expanduser() if place else Path(root) / "milvus.db"
        return Address(str(path), collection)
    protocol = "https" if tls == "true" else "http"
    token = unquote(cluster["token"]) if cluster["token"] else os.environ.get(TOKEN, "")
    return Address(
        f"{protocol}://{cluster['host']}:{cluster['port']}", collection, cluster["database"], token
    )


def load_pymilvus() -> None:
    """Raises SwanError where the extra `milvus` is not installed; silences what it logs beside its errors."""
    try:
        import milvus_lite  # noqa: F401
        import pymilvus  # noqa: F401
    except ImportError as error:
        raise SwanError(
            f"milvus:// needs pymilvus and milvus-lite ({error})", "pip install 'swancli[milvus]'"
        ) from error
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def connected(address: Address) -> Iterator[MilvusClient]:
    """A connection. What comes of Milvus inside it is told as a `SwanError`.

    Raises:
        SwanError: the database cannot be opened or reached, or a request failed.
    """
    load_pymilvus()
    import grpc
    from pymilvus import MilvusClient, MilvusException

    try:
        if address.is_lite:
            _refuse_other_folder(Path(address.uri))
            Path(address.uri).parent.mkdir(parents=True, exist_ok=True)
            # It is reached through loopback, which a proxy of the environment would lead elsewhere.
            client = MilvusClient(address.uri, grpc_options={"grpc.enable_http_proxy": 0})
        else:
            options = {"token": address.token, "db_name": address.database, "timeout": TO_CONNECT}
            client = MilvusClient(address.uri, **options)
    except (MilvusException, grpc.RpcError) as error:
        if address.is_lite:
            raise _not_opened_error(address) from error
        hint = "is it up, is the address right, and the user, the password and the database?"
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
    """Raises SwanError where a folder holds something else than a database, which Lite would write into."""
    entries = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if entries and not entries & LITE_HAS:
        raise SwanError(f"{path}: a folder that is no database of Milvus Lite", "give another FILE.db")


def _release(address: Address) -> None:
    """Ends Lite in this process, which lets others open the database."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(address.uri)


def _not_opened_error(address: Address) -> SwanError:
    """Why a database of Lite cannot be opened; pymilvus keeps that to itself."""
    from milvus_lite import MilvusLite
    from milvus_lite.exceptions import DataDirLockedError

    _release(address)
    try:
        MilvusLite(address.uri).close()
    except DataDirLockedError:
        return SwanError(
            f"{address.uri}: another program has it open",
            "wait for its end; Milvus Lite is for one at a time, a cluster for many",
        )
    except Exception as error:
        return SwanError(f"{address.uri}: no database of Milvus Lite ({error})", "give another FILE.db")
    return SwanError(f"{address.uri}: Milvus Lite does not start", "run it again")


def reason_of(error: Exception) -> str:
    """What Milvus says, in a line."""
    details = error.details() if hasattr(error, "details") else ""  # of gRPC, whose text is a page
    text = details or getattr(error, "message", "") or str(error)
    return " ".join(str(text).split())[:300]


def patience(address: Address) -> float | None:
    """Seconds until a request fails. Lite, in this process, cannot be lost, and may have much to write."""
    return None if address.is_lite else TO_ANSWER


def card_text(made_by: MadeBy) -> str:
    """What a collection keeps of the checkpoint that made its vectors; paths are absolute."""
    paths = {name: getattr(made_by, name) for name in ("checkpoint", "vocab")}
    paths = {name: path and str(Path(path).resolve()) for name, path in paths.items()}
    return json.dumps({"format": FORMAT, "version": VERSION, **asdict(made_by), **paths})


def read_card(client: MilvusClient, address: Address) -> MadeBy | None:
    """The checkpoint that made the vectors of a collection; None where there is no collection.

    Raises:
        SwanError: something else made the collection, or another version of swan.
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
    """Before an hour of encoding: whether vectors of a checkpoint can go to an address.

    Raises:
        SwanError: it cannot be reached, or its collection holds vectors of another checkpoint.
    """
    with connected(address) as client:
        if found := read_card(client, address):
            found.check(made_by, address, OTHER_COLLECTION)


def count_images(client: MilvusClient, address: Address) -> int:
    """How many images a collection holds."""
    options = {"output_fields": ["count(*)"], "timeout": patience(address)}
    return client.query(address.collection, filter="", **options)[0]["count(*)"]
