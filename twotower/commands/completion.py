"""Completion of commands, groups, choices and settings with the Tab key. Add one line to your shell's start-up file:

~/.bashrc                    eval "$(twotower completion bash)"
~/.zshrc                     eval "$(twotower completion zsh)"
~/.config/fish/config.fish   twotower completion fish | source
"""

import argparse
from collections.abc import Sequence

BASH = """\
_twotower() {
    local IFS=$'\\n'
    COMPREPLY=($(twotower completion query "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _twotower twotower"""
SCRIPTS = {
    "bash": BASH,
    "zsh": f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{BASH}",
    "fish": "complete -c twotower -a '(twotower completion query (commandline -cp) 2>/dev/null)'",
}
CONFIGURATIONS = {
    "train": "train",
    "evaluate": "train",
    "export": "export",
}  # command -> configuration


def candidates(line: str) -> list[str]:
    """What the last word of a command line can become; empty where the shell's own file names are best.

    Args:
        line: the line from its beginning to the cursor.
    """
    from twotower.commands.main import COMMANDS

    _, *words = line.lstrip().split(" ")
    if len(words) < 2:
        return [f"{name} " for name in COMMANDS if name.startswith("".join(words))]
    command, *settings = words
    if command == "evaluate":
        settings = settings[1:]  # the run comes first
    if command not in CONFIGURATIONS or not settings:
        return []
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from twotower.runs.config_folder import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        plugin = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
        return plugin._query(CONFIGURATIONS[command], " ".join(settings))


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="twotower completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=[*SCRIPTS, "query"], help="print the script for a shell; query: used by it")
    parser.add_argument("line", nargs="?", default="", help="of query: the line up to the cursor")
    options = parser.parse_args(arguments)
    print(SCRIPTS[options.shell] if options.shell in SCRIPTS else "\n".join(candidates(options.line)))
    return 0
