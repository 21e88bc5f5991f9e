"""Shell completion: sub-commands, options, config groups with their choices, and override keys.

Reads YAML directly, so that an answer takes a tenth of a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cflow_cli.commands import SUMMARIES
from cflow_cli.commands.parsing import Parser
from cflow_cli.config import tree
from cflow_cli.config.settings import SETTINGS
from cflow_cli.errors import UserError

SHELLS = ("bash", "zsh", "fish")

_BASH = r"""# cflow completion for bash; put into ~/.bashrc:  eval "$(cflow completion bash)"
_cflow() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" word done
    COMPREPLY=($(cflow completion query "$line" 2>/dev/null))
    # outside quotes bash takes = and : for ends of words and wants only what comes after them
    word="${line##*[[:space:]]}"
    done="${word%"${word##*[=:]}"}"
    [[ $word == [\'\"]* ]] && done=
    COMPREPLY=("${COMPREPLY[@]#"$done"}")
}
complete -o nospace -o default -F _cflow cflow
"""

_ZSH = r"""# cflow completion for zsh; put into ~/.zshrc:  eval "$(cflow completion zsh)"
_cflow() {
    local -a found
    found=("${(@f)$(cflow completion query "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found%% }")
    if [[ -n ${found[1]} ]]; then compadd -S '' -a found; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _cflow cflow
"""

_FISH = r"""# cflow completion for fish; put into ~/.config/fish/config.fish:  cflow completion fish | source
complete -c cflow -f -a '(cflow completion query (commandline -cp | string collect))'
complete -c cflow -n '__fish_seen_subcommand_from list verify report resume plot compare figures path' -F
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """Text to be evaluated by a shell at its start."""
    return _SCRIPTS[shell]


def complete(line: str, commands: Sequence[str]) -> list[str]:
    """What the last word of a command line can become.

    Parameters
    ----------
    line
        The line up to the cursor, beginning with ``cflow``.
    commands
        Names of the sub-commands.

    Returns
    -------
    list of str
        Whole words; with a space at the end where the word is finished.
    """
    words = line.split()
    # The shells want what goes inside an open quote, without the quote.
    current = "" if line[-1:].isspace() or not words else words.pop().lstrip("'\"")
    words = [word.strip("'\"") for word in words]
    if len(words) < 2:
        return _fitting(current, [f"{name} " for name in (*commands, "--help", "--version")])
    if words[1] == "completion":
        return _fitting(current, [f"{shell} " for shell in SHELLS])
    try:
        return (_overrides if words[1] in ("run", "kernel") else _arguments)(words[2:], current, words[1])
    except UserError:
        return []


def _arguments(words: Sequence[str], current: str, command: str) -> list[str]:
    """Options of a sub-command and their choices, and what its module says that its words can be; else files."""
    if command not in SUMMARIES:
        return []
    module = importlib.import_module(f"cflow_cli.commands.{command}")
    options = module.parser().options() if hasattr(module, "parser") else {}
    before = options.get(words[-1]) if words else None
    if before is not None and before.nargs != 0:
        return _fitting(current, [f"{choice} " for choice in before.choices or ()])
    if current.startswith("-"):
        return _fitting(current, [f"{option} " for option in options if option.startswith("--")])
    known = module.words(words) if hasattr(module, "words") else []
    return _fitting(current, [word if word.endswith("=") else f"{word} " for word in known])


def _overrides(words: Sequence[str], current: str, _: str) -> list[str]:
    if words and words[-1] == "--config-dir":
        return []
    config_dir = _config_dir(words)
    groups = tree.groups(config_dir)
    key, equals, value = current.partition("=")
    if equals:
        found = _values(key, value, groups, words, config_dir)
        return [f"{key}={item}" for item in found]
    options = ("--multirun ", "--config-dir ", "--cfg ", "--resolve ", "--package ", "--info ", "--help ")
    if current.startswith("-"):
        return _fitting(current, options)
    keys = tree.override_keys(_chosen(words, groups), config_dir)
    names = [f"{name}=" for name in (*groups, *keys)]
    whole = _fitting(current, names)
    if "." in current or len(whole) <= 1:
        return whole
    # Groups and the top level first; the keys inside a node after its dot.
    heads = [f"{name}." for name in sorted({key.split(".")[0] for key in keys if "." in key})]
    return _fitting(current, [name for name in names if "." not in name] + heads)


def _values(
    key: str, value: str, groups: dict[str, dict[str, Path]], words: Sequence[str], config_dir: Path | None
) -> list[str]:
    if key in groups:
        # Inside a list or a sweep only the last item is completed.
        cut = max(value.rfind("["), value.rfind(",")) + 1
        end = "" if cut else " "
        return [value[:cut] + item for item in _fitting(value[cut:], [f"{c}{end}" for c in groups[key]])]
    if key in SETTINGS and SETTINGS[key].choices:
        return _fitting(value, [f"{item} " for item in SETTINGS[key].choices])
    default = tree.override_keys(_chosen(words, groups), config_dir).get(key)
    if isinstance(default, bool):
        return _fitting(value, ["true ", "false "])
    return _fitting(value, [] if default is None or "${" in str(default) else [str(default).replace(" ", "")])


def _chosen(words: Iterable[str], groups: dict[str, Any]) -> dict[str, Any]:
    pairs = [word.partition("=")[::2] for word in words]
    chosen: dict[str, Any] = {}
    for key, value in pairs:
        if key in groups:
            items = value.strip("[]").split(",")
            chosen[key] = items if value.startswith("[") else items[0]
    experiment = groups["experiment"].get(str(chosen.get("experiment")))
    return (tree.choices_of_experiment(experiment) if experiment else {}) | chosen


def _config_dir(words: Sequence[str]) -> Path | None:
    for word, after in zip(words, [*words[1:], ""]):
        if word in ("--config-dir", "-cd") and after:
            return Path(after).expanduser()
        if word.startswith("--config-dir="):
            return Path(word.partition("=")[2]).expanduser()
    return None


def _fitting(word: str, candidates: Iterable[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(word)]


def main(argv: Sequence[str]) -> int:
    """Run ``cflow completion``; ``query`` answers the scripts of the shells."""
    if argv[:1] == ["query"]:
        print("\n".join(complete(" ".join(argv[1:]), list(SUMMARIES))))
        return 0
    parser = Parser(
        prog="cflow completion",
        description="Print a script that makes a shell complete sub-commands, choices and override keys.",
        epilog='bash: eval "$(cflow completion bash)" in ~/.bashrc; zsh: alike in ~/.zshrc; '
        "fish: cflow completion fish | source",
    )
    parser.add_argument("shell", choices=SHELLS)
    print(script(parser.parse_args(argv).shell), end="")
    return 0
