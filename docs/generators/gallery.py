"""Draw the pictures of the gallery and of the page on explanations.

The code and the commands on these pages are the ones that draw the pictures: they run here.
"""

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

import cnnarch
from cnnarch.cli import main

from .pictures import GROUPS, RUN, SETUP, Picture, all_pictures
from .text import write

QUALITY = {"quality": 85, "method": 6}  # of WebP files
STAMP = "sources.txt"
PACKAGE = Path(cnnarch.__file__).parent


def write_pages(folder: Path) -> None:
    """Write each picture with its code, unless the code and the package are unchanged."""
    target = folder / "gallery"
    stamp, sources = target / STAMP, hash_sources()
    if stamp.exists() and stamp.read_text() == sources:
        return
    target.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)  # an interrupted build starts again
    draw_pictures(all_pictures(), target)
    for title, pictures in GROUPS.items():
        cells = "\n".join(map(cell, pictures))
        write(target / f"{title}.txt", f":::::{{container}} gallery\n{cells}:::::\n")
    write(target / "setup.txt", f"```console\n$ {RUN}\n```\n\n```python\n{SETUP}```\n")
    stamp.write_text(sources)


def hash_sources() -> str:
    """Return a hash of the package and of the code of the pictures."""
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.jinja"), *Path(__file__).parent.glob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def draw_pictures(pictures: list[Picture], target: Path) -> None:
    """Train the small network, run the setup, and write a WebP file for each picture.

    The report of the training run becomes `report/lenet5_report.html`.
    """
    names: dict[str, Any] = {}
    with TemporaryDirectory() as scratch, chdir(scratch), one_thread(), silenced():
        run(RUN)
        (target / "report").mkdir(exist_ok=True)
        shutil.copy("runs/first/report.html", target / "report" / "lenet5_report.html")
        exec(SETUP, names)
        for picture in pictures:
            path = target.absolute() / f"{picture.name}.webp"
            draw(picture, names, path)


def draw(picture: Picture, names: dict[str, Any], path: Path) -> None:
    """Run a picture's code, which returns a figure, or its command, which writes a file."""
    if picture.is_command:
        run(picture.code)
        words = shlex.split(picture.code)
        with Image.open(words[words.index("--output") + 1]) as image:
            image.convert("RGB").save(path, **QUALITY)
    else:
        eval(picture.code, names).savefig(path, pil_kwargs=QUALITY)


def run(command: str) -> None:
    """Run a `cnnarch` command in this process; a backslash continues it on the next line.

    Raises:
        RuntimeError: the command failed.
    """
    status = main(shlex.split(command.replace("\\\n", ""))[1:])
    if status:
        raise RuntimeError(f"{command} returned status {status}")


def cell(picture: Picture) -> str:
    """Return a picture with its title, what it shows, and its code, in MyST Markdown."""
    language, prompt = ("console", "$ ") if picture.is_command else ("python", "")
    return f"""::::{{container}} {"picture wide" if picture.wide else "picture"}
```{{image}} _generated/gallery/{picture.name}.webp
:alt: {picture.alt}
:width: 100%
```

**{picture.title}** {picture.text}

```{language}
{prompt}{picture.code}
```
::::
"""


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: the networks are small, and other programs may use the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what the commands print."""
    with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
        yield
