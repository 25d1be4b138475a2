"""`docs/your-own-images.md`, followed to the letter in a copy of the package, with real images of many kinds."""

import re
import subprocess
from pathlib import Path

import own_images
import pytest
from test_docs_guide import FENCE, copy_of_the_package, dialogue, pattern

from transfer.export import finished_run

GUIDE = Path(__file__).parents[2] / "docs" / "your-own-images.md"


@pytest.mark.slow
def test_the_network_is_trained_as_the_guide_says(tmp_path: Path) -> None:
    environment = copy_of_the_package(tmp_path)
    own_images.write(tmp_path / "photos", 8)
    (command,) = re.findall(r"^python train.py .*:finetune .*$", GUIDE.read_text("utf-8"), re.MULTILINE)
    done = subprocess.run(
        f"{command} --config.finetune.epochs=2",
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert finished_run.load(tmp_path / "runs" / "tuned").class_names == own_images.CLASSES


@pytest.mark.slow
def test_the_guide_says_what_happens(tmp_path: Path) -> None:
    environment = copy_of_the_package(tmp_path)
    own_images.write(tmp_path / "photos")
    own_images.write_new(tmp_path / "new_images")
    commands = []
    for language, _, block in FENCE.findall(GUIDE.read_text("utf-8")):
        if language != "console":
            continue
        for command, shown in dialogue(block):
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            # a name with quotes is quoted in CSV
            found = done.stdout.replace('"new_images/rot & gelb ""é"".png"', 'new_images/rot & gelb "é".png')
            assert re.fullmatch(pattern(shown), found), f"{command}\nshows\n{done.stdout}\nnot\n{shown}"
            commands.append(command)
    assert [command.split()[1] for command in commands] == ["extract.py", "train.py", "-m", "-m"]
    assert finished_run.load(tmp_path / "runs" / "mine").class_names == own_images.CLASSES
    report = (tmp_path / "runs" / "mine" / "report.html").read_text("utf-8")
    assert "handwritten digit" in report
