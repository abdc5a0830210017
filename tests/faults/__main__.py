"""Ends commands of swan at every bad moment, and looks at what is left: nothing is lost or half-written.

python tests/faults --quick                # 5 kills a command, and each other fault once
python tests/faults                        # the long form, 100 kills a command
python tests/faults --seed 7 --only train  # again, with the seed that it printed

SIGKILL comes inside each file that a command writes, and at random times. Then no file under its final name
may be incomplete, the command run again must finish, and what it leaves must equal what an undisturbed run
leaves, to the last bit but for clock times. The same is asked after an interrupt (exit code 130 within two
seconds), a full disk, a folder that may not be written and a file removed while it is read, which have to be
told in a line; and a second process that trains a run is refused. It needs Linux; full disks and folders that
may not be written need root.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

# Several threads would wait for each other, and index in another order each time.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from faults import FAULTS, Counts
from material import COMMANDS
from trials import Trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 kills a command")
    parser.add_argument("--kills", type=int, help="a command; default: 100")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--only", action="append", choices=list(COMMANDS), help="a command")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="of these kinds alone")
    options = parser.parse_args()
    kills = options.kills or (5 if options.quick else 100)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}, {kills} kills a command", flush=True)
    # The background of a shell ignores it, and so would the children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began, counts = time.monotonic(), Counts()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # syncing to a real disk takes the time
    with tempfile.TemporaryDirectory(prefix="swan-faults-", dir=memory) as folder:
        trials = Trials(Path(folder))
        for name in options.only or COMMANDS:
            trials.after(COMMANDS[name])
            for kind in options.fault or FAULTS:
                chance = random.Random(f"{seed} {name} {kind}")
                FAULTS[kind](trials, COMMANDS[name], chance, kills, counts)
        print(counts.table())
    print(f"{time.monotonic() - began:.0f} s, seed {seed}")
    for failure in trials.failures:
        print(f"FAILED {failure}")
    raise SystemExit(1 if trials.failures else 0)


if __name__ == "__main__":
    main()
