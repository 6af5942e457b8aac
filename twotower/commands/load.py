"""Write a bundle's vectors, ids and filterable features to a vector database, and check what it finds.

A new version is written aside, batch by batch, and takes the old one's place at once when its recall is checked; after
a kill the same command goes on. TARGET is an address, or a place of this machine:

    twotower load pgvector bundles/shop postgresql://shop@localhost/shop
    twotower load milvus bundles/shop http://localhost:19530          or milvus.db, a file
    twotower load qdrant bundles/shop http://localhost:6333           or a folder
    twotower load lancedb bundles/shop s3://shop/vectors              or a folder

Secrets come from the environment: PGPASSWORD, MILVUS_TOKEN, QDRANT_API_KEY, LANCEDB_API_KEY.
"""

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """`twotower load DATABASE BUNDLE TARGET`: load, check and print a summary; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", metavar="DATABASE", help="pgvector, milvus, qdrant or lancedb")
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle; also one that MLflow has")
    parser.add_argument("target", metavar="TARGET", help="where the database is")
    parser.add_argument("--name", default="items", help="of the view, alias or table (default: %(default)s)")
    parser.add_argument("--floor", type=float, default=0.95, help="the least recall@20 (default: %(default)s)")
    options = parser.parse_args(arguments)

    from contextlib import ExitStack

    from twotower.commands.main import local_bundle
    from twotower.exporting.vector_databases.load import load_bundle

    with ExitStack() as scratch:
        bundle = local_bundle(options.bundle, scratch)
        print(load_bundle(bundle, options.kind, options.target, options.name, options.floor))
    print(f"{options.name} answers from them")
    print("next: search it with Retriever.encode([history])[0], see docs/how-to/vector-databases.md")
    return 0
