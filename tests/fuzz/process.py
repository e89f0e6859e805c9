"""The only owner of one target under atheris: `python -m tests.fuzz.process TARGET`, and what libFuzzer is told."""

import sys
from random import Random

import atheris

STRUCTURED = 0.5  # the share of mutations that keep the structure of a file


def main(name: str, flags: list[str]) -> None:
    """Fuzz one target until libFuzzer's limits. Ends the process, with code 77 where an input was a finding."""
    with atheris.instrument_imports(include=["robustcl"]):
        from tests.fuzz.target import find

        target = find(name)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draw = Random(seed)
        if draw.random() < STRUCTURED:
            try:
                changed = target.mutate(bytes(data), draw)
            except Exception:  # not of this structure any more
                changed = b""
            if 0 < len(changed) <= most:
                return changed
        return bytes(atheris.Mutate(data, most))

    # Where it merges, libFuzzer starts itself anew by its first word, and by way of a shell.
    again = f"{sys.executable} -m tests.fuzz.process {name}"
    atheris.Setup([again, *flags], target.accept, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
