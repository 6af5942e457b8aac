"""MovieLens of any size: ratings, movies and, in 100k and 1M, users (grouplens.org/datasets/movielens).

100k: u.data with tabs, u.item and u.user with bars, Latin-1; 1M and 10M: ratings.dat, movies.dat, users.dat with "::",
1M in Latin-1; 20M, 25M and 32M: ratings.csv and movies.csv with a line of names. Times are seconds; genres are flags in
100k, else text with bars.
"""

from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.schema import ITEM_ID, TIMESTAMP, USER_ID, Prepared
from twotower.core.table_files import open_bytes
from twotower.data.readers.chunks import RawFile, delimited_file, integer, number, prepare_files, small_table
from twotower.data.readers.files import published_file, readable
from twotower.data.readers.source import Prepare

PAGE = "grouplens.org/datasets/movielens"
BESIDE = {  # the ratings -> the movies, the users
    "u.data": ("u.item", "u.user"),
    "ratings.dat": ("movies.dat", "users.dat"),
    "ratings.csv": ("movies.csv", "users.csv"),
}
FLAGS = (  # of 100k, in u.item's order
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
GENRES = FLAGS.split("|")
FIELDS = {
    "u.item": ("|", [ITEM_ID, "title", "released", "video", "url", *GENRES]),
    "movies.dat": ("::", [ITEM_ID, "title", "genres"]),
    "u.user": ("|", [USER_ID, "age", "gender", "occupation"]),
    "users.dat": ("::", [USER_ID, "gender", "age", "occupation"]),
}
COLUMNS = {
    USER_ID: integer("userId"),
    ITEM_ID: integer("movieId"),
    TIMESTAMP: integer("timestamp"),
    "rating": number("rating"),
}


def read(path: str, prepare: Prepare) -> Prepared:
    """Prepare MovieLens's ratings; events have a rating.

    Items have a title, a year and genres (a list); users, where there are any, have an age (in 1M the lowest of an age
    band), a gender and an occupation (in 1M a number).

    Args:
        path: the folder with the files of one size, which tell which one it is.
        prepare: what the source is given to.
    """
    ratings = published_file(path, list(BESIDE), PAGE)
    beside = BESIDE[ratings.name.removesuffix(".gz")]
    movies = published_file(path, beside[:1], PAGE)
    users = [ratings.parent / beside[1]] if (ratings.parent / beside[1]).is_file() else []
    return prepare_files(
        prepare,
        [_ratings(ratings)],
        {"reader": "movielens"},
        unit="s",
        name=f"movielens-{ratings.resolve().parent.name}",
        tables=[movies, *users],
        items=partial(_movies, movies),
        users=partial(_users, users[0]) if users else None,
    )


def _ratings(file: Path) -> RawFile:
    if ".dat" not in file.name:
        return delimited_file(file, COLUMNS)
    user, item, rating, time = "userId", "movieId", "rating", "timestamp"
    if file.name.startswith("u."):
        return delimited_file(file, COLUMNS, "\t", [user, item, rating, time])
    # Of two colons the second ends an empty field.
    return delimited_file(file, COLUMNS, ":", [user, "_1", item, "_2", rating, "_3", time])


def _movies(file: Path) -> pl.LazyFrame:
    movies = _table(file).rename({"movieId": ITEM_ID}, strict=False)
    if "genres" in movies.columns:
        movies = movies.with_columns(pl.col("genres").replace("(no genres listed)", None).str.split("|"))
    else:
        flagged = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES[1:]]
        movies = movies.with_columns(genres=pl.concat_list(flagged).list.drop_nulls())
    title, year = pl.col("title").str.strip_chars(), r"\s*\((\d{4})\)$"
    return movies.select(
        pl.col(ITEM_ID).cast(pl.Int64, strict=False),
        title=title.str.replace(year, ""),
        year=title.str.extract(year).cast(pl.Int64),
        genres="genres",
    ).lazy()


def _users(file: Path) -> pl.LazyFrame:
    numbers = pl.col(USER_ID, "age").cast(pl.Int64, strict=False)
    return _table(file).select(USER_ID, "age", "gender", "occupation").with_columns(numbers).lazy()


def _table(file: Path) -> pl.DataFrame:
    """Read a small file with a separator of several characters, or in Latin-1; fields beyond FIELDS are left out."""
    if file.name.removesuffix(".gz") not in FIELDS:
        return small_table(file)
    separator, names = FIELDS[file.name.removesuffix(".gz")]
    with readable(file), open_bytes(file) as content:
        data = content.read()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    fields = pl.Series([line for line in lines if line], dtype=pl.String).str.split(separator)
    return pl.DataFrame({name: fields.list.get(i, null_on_oob=True) for i, name in enumerate(names)})
