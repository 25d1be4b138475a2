"""`python -m transfer completion`: its scripts, in the shells that they are for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.__main__ import main
from transfer.cli import completion
from transfer.cli.verbs import ALL, VERBS

REPOSITORY = Path(__file__).parents[2]
# What a terminal does when TAB is pressed: looks up the command's function, and calls it on the words.
TAB = r"""
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
read -r -a spec <<< "$(complete -p -- "${COMP_WORDS[0]}")"
for ((i = 0; i < ${#spec[@]}; i++)); do
  [[ ${spec[i]} == -F ]] && "${spec[i+1]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
done
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module", params=completion.SHELLS)
def script(request, tmp_path_factory):
    """(shell, file with its script)."""
    path = tmp_path_factory.mktemp("completion") / f"transfer.{request.param}"
    path.write_text(completion.script(request.param))
    return request.param, path


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """Words, the last one begun, to what bash offers."""
    path = tmp_path_factory.mktemp("bash") / "transfer.bash"
    path.write_text(completion.script("bash"))

    def offered(*words):
        command = ["bash", "-c", TAB, "bash", str(path), *words]
        asked = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        assert asked.stderr == "", asked.stderr
        return asked.stdout.split()

    return offered


def test_is_a_script_of_the_shell(script):
    shell, path = script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(path)], check=True)
    assert "@" not in "".join(line for line in path.read_text().splitlines() if "TRAIN" in line or "CASES" in line)


@pytest.mark.parametrize("before", [("transfer",), ("python", "-m", "transfer"), ("python3", "-m", "transfer")])
def test_bash_completes_verbs(tab, before):
    assert set(ALL) <= set(tab(*before, ""))
    assert tab(*before, "doc") == ["doctor"]
    assert "--no_network" in tab(*before, "doctor", "--")
    assert tab(*before, "weights", "fe") == ["fetch"]
    assert tab(*before, "completion", "z") == ["zsh"]
    assert tab(*before, "report", "--map", "ts") == ["tsne"]


@pytest.mark.parametrize("verb", VERBS)
def test_bash_completes_the_flags_of_every_verb(tab, verb):
    offered = tab("transfer", verb, "--")
    assert {"--debug", "--help"} <= set(offered)


@pytest.mark.parametrize("before", [("transfer",), ("python", "-m", "transfer")])
def test_bash_completes_experiments_as_verbs(tab, before):
    assert tab(*before, "tra") == ["train", "transferability"]
    assert tab(*before, "train", "--config.head.ep") == ["--config.head.epochs="]
    assert tab(*before, "extract", "--config", "=", "quick") == ["quickstart"]
    assert "--training_file=" in tab(*before, "train", "--") and "--training_file=" not in tab(*before, "extract", "--")
    assert tab(*before, "train", "--config.head.name", "=", "rid") == ["ridge"]


def test_bash_completes_flags_of_the_scripts(tab):
    assert tab("python", "train.py", "--config.head.ep") == ["--config.head.epochs="]
    assert {"--config=", "--workdir=", "--debug", "--training_file="} <= set(tab("python", "train.py", "--"))
    assert "--training_file=" not in tab("python3", "./extract.py", "--")
    assert tab("python", "other.py", "--") == []


def test_bash_completes_values_of_the_scripts(tab):
    assert tab("python", "train.py", "--config", "=", "configs/quick") == ["configs/quickstart.py"]
    assert tab("python", "train.py", "--config", "=", "conf") == ["configs/"]
    assert "linear" in tab("python", "train.py", "--config.head.name", "=")
    assert tab("python", "train.py", "--config.model.name", "=", "vgg11_slim") == ["vgg11_slim.cifar10"]
    # where the words are not split at "="
    assert tab("python", "train.py", "--config.head.name=rid") == ["--config.head.name=ridge"]
    assert "train.py" in tab("python", "train.py", "--training_file", "=", "tr")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("transfer docto", "doctor"),
        ("transfer trai", "train"),
        ("transfer train --config.head.ep", "--config.head.epochs="),
        ("transfer extract --config=quick", "--config=quickstart"),
        ("python -m transfer train --config.head.ep", "--config.head.epochs="),
        ("python -m transfer docto", "doctor"),
        ("python train.py --config.head.ep", "--config.head.epochs="),
        ("python train.py --config.head.name=ridg", "--config.head.name=ridge"),
        ("python train.py --config=configs/quick", "--config=configs/quickstart.py"),
    ],
)
def test_fish(tmp_path, line, expected):
    path = tmp_path / "transfer.fish"
    path.write_text(completion.script("fish"))
    command = ["fish", "--no-config", "-c", f"source {path}; complete -C '{line}'"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert expected in asked.stdout.split(), asked.stdout + asked.stderr


@pytest.mark.parametrize("name", completion.FLAGS)
def test_flags_are_those_of_the_experiment(name):
    program = (
        f"import transfer.cli.{name}\n"
        "from absl import flags\n"
        "modules = flags.FLAGS.flags_by_module_dict()\n"
        "own = {flag.name for module in modules if 'transfer' in module for flag in modules[module]}\n"
        "print(*sorted(own | {'config'}))"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.split()
    assert found == sorted(completion.FLAGS[name])


def test_prints_the_script(capsys):
    assert main(["completion", "bash"]) == 0
    assert "complete -o bashdefault" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["completion", "csh"])
