"""A whole stage of real parts for flows in break glass: database, ledger, store, keys; and backups multiplied cheaply.

One dump serves many tests: `again` makes another backup of it, of another day, signed as if it had been taken then.
"""

import hashlib
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import pytest

from blocks.keys import BackupKeys, NewKeys, new_keys
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.storage.objects import Objects, S3Place
from flows.catalogue.layout import MANIFEST, home_of, proof_key, signature_of
from flows.catalogue.manifest import Manifest, ProofPaper, ProofSeconds
from flows.catalogue.tasks import Bucket, Found, Reader, read_bucket
from flows.records import Kind, backup_id
from flows.stage import Stage
from flows.world import World
from tests.parts.environment import environment, identity_file, url_of
from tests.parts.postgres import drop_database, make_database

STAGE = """
faults = true
[service]
name = "curator"
[database]
name = "{database}"
lock_wait = "5s"
[objectives]
rpo = "1h"
rto = "4h"
[ledger]
lease = "{lease}"
[store]
bucket = "backups"
prefix = "{prefix}"
region = "us-east-1"
"""
FILL = """
create table public.users (id bigint generated always as identity primary key, name text);
create index users_name on public.users (name);
insert into public.users (name) select '사용자 ' || n from generate_series(1, 500) n;
"""


@dataclass(frozen=True)
class Scene:
    """One stage, named `name`; its variables are set in this process while the scene lasts."""

    name: str
    database: Address
    ledger: Address
    place: S3Place
    keys: NewKeys
    folder: Path
    environ: Mapping[str, str]

    @property
    def world(self) -> World:
        """A new world, as a new process would have it."""
        return World(Stage.named(self.name, Path(self.environ["SHIPKEEPER_STAGES"])), dict(self.environ))

    @cached_property
    def objects(self) -> Objects:
        """The store with all rights."""
        return self.place.open()

    @property
    def bucket(self) -> Bucket:
        """What lies there now."""
        world = self.world
        return read_bucket.fn(world.reading, world.keys, world.stage)

    def one(self, backup: str) -> Found | None:
        """One backup as it lies there; None: it is not listed. Cheaper than the whole bucket."""
        world = self.world
        home = home_of(world.stage)
        inside = [entry.key for entry in self.objects.list(home.of(backup))]
        if home.of(backup) + MANIFEST not in inside:
            return None
        return Reader(self.objects, world.keys, home, self.place.prefix).found(backup, inside)

    def half(self, backup: str) -> list[str]:
        """What is wrong with a backup that is listed; nothing with one that is whole, or not listed."""
        found = self.one(backup)
        if found is None:
            return []
        if found.manifest is None:
            return [f"{backup} is listed and {found.trouble}"]
        sizes = {entry.key: entry.bytes for entry in self.objects.list(found.folder)}
        objects = found.manifest.objects
        return [f"{backup} is listed without {o.key}" for o in objects if sizes.get(found.folder + o.key) != o.bytes]

    @staticmethod
    def stages(environ: Mapping[str, str]) -> Path:
        """The folder of the stages' TOML."""
        return Path(environ["SHIPKEEPER_STAGES"])

    def databases(self) -> set[str]:
        """All databases of the server that belong to this scene."""
        with self.database.at("postgres").connect() as connection:
            found = {str(name) for (name,) in connection.execute("select datname from pg_database").fetchall()}
        return {name for name in found if name.startswith((self.database.database, "shipkeeper_proof_"))}

    def toml(self, changed: str = "", instead: str = "", more: str = "") -> None:
        """Write the stage's TOML anew, with one text changed, or more at its end."""
        text = STAGE.format(database=self.database.database, prefix=self.place.prefix, lease="3s") + more
        assert changed in text
        path = Path(self.environ["SHIPKEEPER_STAGES"]) / f"{self.name}.toml"
        path.write_text(text.replace(changed, instead) if changed else text)

    def sign_anew(self, manifest: Manifest, folder: str, keys: BackupKeys | None = None) -> None:
        """Put a manifest with the stage's own signature, or another's, over whatever is there."""
        self._put(folder + MANIFEST, manifest.text(), keys or self.world.keys)

    def again(self, backup: str, at: datetime, kind: Kind = "daily", verdict: str = "") -> str:
        """The same backup once more, as if taken at `at`; with a proof of that verdict. Returns its id."""
        found = self.one(backup)
        assert found
        assert found.manifest
        made = backup_id(at, kind, secrets.token_hex(3))
        folder = found.folder.replace(backup, made)
        for key in found.keys:
            if key.endswith(".age"):
                self.objects.put(key.replace(backup, made), self.objects.get(key))
        changes = {
            "id": made,
            "kind": kind,
            "prefix": found.manifest.prefix.replace(backup, made),
            "snapshot": found.manifest.snapshot.model_copy(update={"time": at}),
        }
        manifest = found.manifest.model_copy(update=changes)
        self.sign_anew(manifest, folder)
        if verdict:
            self.proof(manifest, folder, at, verdict)
        return made

    def proof(
        self, manifest: Manifest, folder: str, at: datetime, verdict: str, keys: BackupKeys | None = None
    ) -> None:
        """Put a proof beside the manifest, signed with the prover's key or with another."""
        differences = ({"what": "rows", "wanted": "500", "found": "499"},) if verdict == "disproven" else ()
        paper = ProofPaper.model_validate(
            {
                "id": proof_key(at).removesuffix(".json"),
                "backup": manifest.id,
                "manifest_sha256": hashlib.sha256(manifest.text()).hexdigest(),
                "verdict": verdict,
                "exceptions": (),
                "lacks": ("nothing it had",) if verdict == "unproven" else (),
                "differences": differences,
                "server_version": "17.10",
                "started": at,
                "finished": at,
                "seconds": ProofSeconds(download=0, load=1, compare=1),
                "prover": self.world.proof_keys.signing_key_id,
            }
        )
        self._put(folder + proof_key(at), paper.text(), keys or self.world.proof_keys)

    def _put(self, key: str, text: bytes, keys: BackupKeys) -> None:
        self.objects.put(signature_of(key), keys.sign(text))
        self.objects.put(key, text)


@contextmanager
def scene(cluster: Cluster, place: S3Place, folder: Path, *, name: str = "test") -> Generator[Scene]:
    """A stage with a small filled database and a migrated ledger; its databases are dropped afterwards."""
    database, ledger, keys = make_database(cluster), make_database(cluster), new_keys()
    stages = folder / "stages"
    stages.mkdir(parents=True)
    environ = {
        **environment(database, ledger, keys, identity_file(folder, keys), place),
        "SHIPKEEPER_STAGES": str(stages),
        "SCRATCH_URL": url_of(database.at("postgres")),
    }
    made = Scene(name, database, ledger, place, keys, folder, environ)
    made.toml()
    with database.connect() as connection:
        connection.execute(FILL)
    made.world.ledger.migrate()
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environ.items():
            patch.setenv(variable, value)
        yield made
    for left in made.databases():
        drop_database(database.at(left))
    drop_database(ledger)
