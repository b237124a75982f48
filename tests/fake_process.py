"""Stands in for a cell's process: puts a run that is ready where it belongs. The standard library alone, to be quick.

python tests/fake_process.py NAME READY RUN_DIR
"""

import os
import shutil
import sys
import time
from pathlib import Path

name, ready, run = sys.argv[1:]
diary = Path(os.environ["FAKE_DIARY"])
with diary.open("a") as file:
    file.write(name + "\n")
if name in os.environ.get("FAKE_FAILS", "").split():
    print("error: train.accelerator 'tpu': no such device", file=sys.stderr)
    sys.exit(5)
blocks = os.environ.get("FAKE_BLOCKS", "")  # NAME FILE: that cell waits until the file is there
while blocks.startswith(f"{name} ") and not Path(blocks.split()[1]).exists():
    time.sleep(0.02)
company = int(os.environ.get("FAKE_COMPANY", "1"))  # it waits until so many have begun
deadline = time.monotonic() + 60
while len(diary.read_text().split()) < company:
    if time.monotonic() > deadline:
        sys.exit("nobody came")
    time.sleep(0.02)
shutil.copytree(ready, run, dirs_exist_ok=True)
