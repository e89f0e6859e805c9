"""The only owner of cheap commands: `python` and `robustcl` as forks of a process that has imported everything."""

import json
import os
import runpy
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from unittest import mock

CLIENT = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    sys.exit(int(server.recv(8)))
"""


@contextmanager
def commands(folder: Path, root: Path) -> Iterator[Path]:
    """A folder for the PATH, with `python` and `robustcl` of the checkout at `root`; they start in no time.

    Half a dozen seconds of imports a command are most of what a script of commands takes.
    """
    address = str(folder / "forks")
    for name in ("python", "robustcl"):
        path = folder / name
        path.write_text(CLIENT.format(python=sys.executable, address=address))
        path.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.forks", address], cwd=root, env=environment, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder
        server.kill()


def serve(address: str) -> None:
    """Run one command after another, each in a fork with the caller's folder, environment and files."""
    import sklearn.datasets
    import torch._dynamo  # an optimiser's first step imports it

    from robustcl import guard, sequential
    from robustcl.bench import runner
    from robustcl.reports import drawing, report

    assert all((sklearn.datasets, torch._dynamo, guard, sequential, runner, report))
    mock.patch.object(drawing, "save", return_value=[]).start()  # most of the time of `evaluate`, and tested elsewhere
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            caller, _ = listener.accept()
            message, files, *_ = socket.recv_fds(caller, 1 << 20, 3)
            child = os.fork()
            if not child:
                words, folder, environment = json.loads(message)
                _end(words, folder, environment, files)
            for file in files:
                os.close(file)
            caller.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
            caller.close()


def _end(words: list[str], folder: str, environment: dict[str, str], files: list[int]) -> NoReturn:
    """Run a command and be gone: taking down what the parent imported takes seconds, too."""
    code: object = 1
    try:
        _run(words, folder, environment, files)
        code = 0
    except SystemExit as done:
        code = done.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _run(words: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """What an interpreter does with `-m MODULE ...` or `FILE ...`, and the command `robustcl` with its words."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    if Path(words[0]).name == "robustcl":
        words = ["python", "-m", "robustcl", *words[1:]]
    module = words[1] == "-m"
    sys.argv = words[2 if module else 1 :]
    if module:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[1], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
