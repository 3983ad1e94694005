"""Decides whether the schema's archive names every table of the manifest: its list in, the tables that it lacks out.

`pg_restore -l` ends well on an archive that lacks tables: that it can be read says nothing about what is in it.
"""

import re

from flows.catalogue.manifest import Manifest

_ENTRY = re.compile(r"^\d+; \d+ \d+ TABLE (.+)$", re.MULTILINE)


def lacking_tables(listed: str, manifest: Manifest) -> list[str]:
    """The manifest's tables that `pg_restore -l` does not list.

    A configuration table comes with its extension. The list is in UTF-8 whatever the database's encoding is: the dump
    runs with PGCLIENTENCODING=UTF8, and fails on a name that is none (only SQL_ASCII holds such).
    """
    entries = (entry.split(" ") for entry in _ENTRY.findall(listed))
    # Schema, name and owner stand side by side, and each may hold spaces: every beginning may be the whole name.
    known = {" ".join(words[:end]) for words in entries for end in range(2, len(words))}
    own = ((_in_one_line(each.schema_), _in_one_line(each.name)) for each in manifest.tables if each.condition is None)
    return [f"{schema}.{name}" for schema, name in own if f"{schema} {name}" not in known]


def _in_one_line(name: str) -> str:
    """As the list shows a name with a line break."""
    return name.replace("\n", " ").replace("\r", " ")
