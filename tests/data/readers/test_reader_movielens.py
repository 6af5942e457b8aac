"""MovieLens in its three forms."""

from pathlib import Path
from typing import Any

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers.movielens import GENRES, read
from twotower.data.readers.source import Source


def flags(*names: str) -> str:
    return "|".join("1" if genre in names else "0" for genre in GENRES)


SMALL: dict[str, str | bytes] = {
    "u.data": "196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
    "u.item": (
        f"242|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy|{flags('Animation', 'Comedy')}\n"
        f"302|Misérables, Les (1995)|01-Jan-1995||http://x|{flags('Drama')}\n267|unknown||||{flags('unknown')}\n"
    ).encode("latin-1"),
    "u.user": "196|49|M|writer|55105\n186|39|F|executive|00000\n",
}
MILLION: dict[str, str | bytes] = {
    "ratings.dat": "1::1193::5::978300760\n1::661::3.5::978302109\n",
    "movies.dat": "1193::Star Wars: Episode IV - A New Hope (1977)::Action|Sci-Fi\n661::Léon (1994)::Thriller\n".encode(
        "latin-1"
    ),
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}
LARGE: dict[str, str | bytes] = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,17,4.0,944249077\n1,25,0.5,944250228\n",
    "movies.csv": 'movieId,title,genres\n17,"Misérables, Les (1995) ",Drama|War\n25,Babylon 5,(no genres listed)\n',
    "tags.csv": "userId,movieId,tag,timestamp\n",
}


def source(path: Path, files: dict[str, str | bytes]) -> Source:
    for name, content in files.items():
        write(path / name, content)
    return source_of(read, path)


def items(given: Source) -> list[dict[str, Any]]:
    assert given.items is not None
    return given.items().collect().to_dicts()


def users(given: Source) -> list[dict[str, Any]]:
    assert given.users is not None
    return given.users().collect().to_dicts()


def movie(item_id: int, title: str, year: int | None, genres: list[str] | None) -> dict[str, Any]:
    return {"item_id": item_id, "title": title, "year": year, "genres": genres}


def user(user_id: int, age: int, gender: str, occupation: str) -> dict[str, Any]:
    return {"user_id": user_id, "age": age, "gender": gender, "occupation": occupation}


def test_100k(tmp_path: Path) -> None:
    given = source(tmp_path / "ml-100k", SMALL)
    assert (given.name, given.unit) == ("movielens-ml-100k", "s")
    assert given.columns == ["user_id", "item_id", "timestamp", "rating"]
    assert events_of(given).rows() == [(196, 242, 881250949, 3.0), (186, 302, 891717742, 3.0)]
    assert items(given) == [
        movie(242, "Toy Story", 1995, ["Animation", "Comedy"]),
        movie(302, "Misérables, Les", 1995, ["Drama"]),
        movie(267, "unknown", None, []),
    ]
    assert users(given) == [user(196, 49, "M", "writer"), user(186, 39, "F", "executive")]
    assert len(given.files) == 3


def test_1m_and_10m(tmp_path: Path) -> None:
    given = source(tmp_path, MILLION)
    assert events_of(given).rows() == [(1, 1193, 978300760, 5.0), (1, 661, 978302109, 3.5)]
    assert items(given) == [
        movie(1193, "Star Wars: Episode IV - A New Hope", 1977, ["Action", "Sci-Fi"]),
        movie(661, "Léon", 1994, ["Thriller"]),
    ]
    assert users(given) == [user(1, 1, "F", "10"), user(2, 56, "M", "16")]
    (tmp_path / "users.dat").unlink()
    write(tmp_path / "movies.dat", "661::Léon (1994)::Thriller\r\n")  # 10M has no users, and UTF-8
    given = source_of(read, tmp_path)
    assert given.users is None
    assert items(given) == [movie(661, "Léon", 1994, ["Thriller"])]


def test_20m_and_later(tmp_path: Path) -> None:
    given = source(tmp_path, LARGE)
    assert events_of(given).rows() == [(1, 17, 944249077, 4.0), (1, 25, 944250228, 0.5)]
    assert items(given) == [movie(17, "Misérables, Les", 1995, ["Drama", "War"]), movie(25, "Babylon 5", None, None)]
    assert given.users is None
    assert given.rows >= 2


@pytest.mark.parametrize(
    ("files", "without", "message"),
    [
        ({}, "", r"no u\.data or ratings\.dat or ratings\.csv"),
        (SMALL, "u.item", r"no u\.item"),
        (MILLION, "movies.dat", r"no movies\.dat"),
        (LARGE, "movies.csv", r"no movies\.csv"),
    ],
)
def test_missing_files(tmp_path: Path, files: dict[str, str | bytes], without: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"{message}; download it from grouplens\.org/datasets/movielens"):
        source(tmp_path, {name: content for name, content in files.items() if name != without})


def test_odd_lines(tmp_path: Path) -> None:
    given = source(tmp_path, {**MILLION, "ratings.dat": "1::2::3::4\nx::5::2::7\n1::6::", "movies.dat": "6::A\n\n7"})
    assert events_of(given).rows() == [(1, 2, 4, 3.0), (None, 5, 7, 2.0), (1, 6, None, None)]
    assert items(given) == [movie(6, "A", None, None), {"item_id": 7, "title": None, "year": None, "genres": None}]
