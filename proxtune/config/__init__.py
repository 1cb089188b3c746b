"""Configuration: YAML files and `section.key=value` overrides in, one frozen pydantic model out.

A schema is a tree of `Section`s; each stands at the top of the file that uses it. This package only loads: it reads
(source.py), merges and validates (load.py), and reports every mistake of every source at once, with file, line and key.
"""

from proxtune.config.load import dump, load
from proxtune.config.schema import Key, Section, json_schema, key_table
from proxtune.config.source import recipes

__all__ = ["Key", "Section", "dump", "json_schema", "key_table", "load", "recipes"]
