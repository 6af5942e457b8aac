"""conf/, the folder of all settings: where it is, its groups, and the help text of a command. Needs no Hydra."""

from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# In a wheel conf/ lies in the package, in the repository beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
GROUPS_OF = {"export": ("index",), "promote": ("gate",)}  # the others are groups of train


def choices_by_group(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Group -> its choices, both in alphabetical order, from the files GROUP/CHOICE.yaml of all `folders`."""
    choices: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.glob("*/**/*.yaml"):
            choices.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(choices.items())}


def help_text(config_name: str, folders: Sequence[Path]) -> str:
    """The help of train, export or promote: its template in conf/, with the groups of `folders`.

    Hydra's own --help would compose the configuration for each group, which takes a second and more.
    """
    import yaml  # type: ignore[import-untyped]  # it publishes no types

    settings = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    text: str = settings["hydra"]["help"]["template"]
    elsewhere = sum(GROUPS_OF.values(), ())
    groups = [
        f"{group}: {', '.join(names)}"
        for group, names in choices_by_group(folders).items()
        if (group in GROUPS_OF[config_name] if config_name in GROUPS_OF else group not in elsewhere)
    ]
    return text.replace("$APP_CONFIG_GROUPS", "\n".join(f"  {line}" for line in groups)).rstrip()


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """conf/, and the folders that --config-dir names in a command's arguments."""
    folders = [CONF]
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value or following))
    return folders
