"""`--config=`: a name is a config that comes with the package, a path a file."""

from pathlib import Path

import pytest

from transfer import config as settings
from transfer.errors import UsageError
from transfer.experiment import config_file

CONFIGS = Path(__file__).parents[2] / "configs"
MINE = "from transfer import config\ndef get_config():\n    c = config.default()\n    c.seed = 7\n    return c\n"


def test_a_name_is_the_file_of_that_name():
    names = config_file.packaged()
    assert {f"{name}.py" for name in names} == {path.name for path in CONFIGS.glob("*.py")}
    for name, path in names.items():
        assert settings.flat(config_file.load(name).to_dict()) == settings.flat(config_file.load(str(path)).to_dict())
    assert config_file.load("finetune_digits:block5").unfreeze == "block5"


@pytest.mark.parametrize(("given", "seed"), [("quickstart", 0), ("quickstart.py", 7), ("./quickstart.py", 7)])
def test_a_file_of_that_name_is_taken_by_its_path_alone(given, seed, tmp_path, monkeypatch):
    (tmp_path / "quickstart.py").write_text(MINE)
    (tmp_path / "quickstart").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert config_file.load(given).seed == seed


MISSING = {
    "quikstart": f"no such config; {config_file.LISTED}; did you mean quickstart?",
    "quikstart:16": f"no such config; {config_file.LISTED}; did you mean quickstart?",
    "mine": "no config of that name comes with the package; the file is --config=./mine.py",
    "": f"no such config; {config_file.LISTED}",
    "other.py": "no such file; see the ones in ./",
    "configs/quickstart.py": "no such file; a config of that name comes with the package: --config=quickstart",
    "nowhere/other.py": f"no such file; {config_file.LISTED}",
}


@pytest.mark.parametrize("given", MISSING)
def test_what_is_missing_is_said_with_what_is_there(given, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        config_file.load(given)
    assert str(error.value) == f"--config={given}: {MISSING[given]}"
