"""Make, withdraw and list keys of the inference API: keys.py add NAME FILE, remove NAME FILE, list FILE.

`add` prints the key, once: the file holds only its SHA-256. A service that reads the file notices a change within
seconds. Exit code: 0 done, 2 not done, for a reason told in a sentence.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from pystock.api.keys import NAME, KeysError, digest, new_key, read_keys
from pystock.runs import reason


def write(file: Path, keys: dict[str, str]) -> None:
    """Put these keys into the file at one stroke. It is its owner's alone, who stays who it was."""
    handle, new = tempfile.mkstemp(prefix=".keys-", dir=file.parent)  # with the rights 0600
    try:
        with open(handle, "w", encoding="ascii", newline="\n") as writing:
            writing.writelines(f"{name} {code}\n" for name, code in keys.items())
            writing.flush()
            os.fsync(handle)
            if file.exists() and hasattr(os, "fchown"):  # a service could not read what root has made its own
                owner = file.stat()
                os.fchown(handle, owner.st_uid, owner.st_gid)
        os.replace(new, file)
    except BaseException:
        os.unlink(new)
        raise


def do(command: str, file: Path, name: str = "") -> list[str]:
    """The lines to print; KeysError, OSError."""
    file = file.resolve()  # what a link points to is written anew, and not the link
    keys = {} if command == "add" and not file.exists() else read_keys(file)
    if command == "list":
        return list(keys)
    if command == "add":
        if not NAME.fullmatch(name):
            raise KeysError(f"{name!r} is no name: use up to 64 letters, digits, points, - and _")
        if name in keys:
            raise KeysError(f"there is a key of {name} already: remove it first")
        key = new_key()
        write(file, keys | {name: digest(key.encode())})
        return [key]
    if name not in keys:
        raise KeysError(f"there is no key of {name!r}")
    del keys[name]
    write(file, keys)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, about in {
        "add": "make a key for a client and print it",
        "remove": "withdraw the key of a client",
        "list": "the names of the clients",
    }.items():
        each = commands.add_parser(command, help=about, description=about, allow_abbrev=False)
        if command != "list":
            each.add_argument("name", metavar="NAME", help="of the client: up to 64 letters, digits, points, - and _")
        each.add_argument("file", metavar="FILE", type=Path)
    given = parser.parse_args()
    try:
        for line in do(**vars(given)):
            print(line)
    except (KeysError, OSError) as error:
        why = str(error) if isinstance(error, KeysError) else f"the file cannot be written ({reason(error)})"
        print(f"{given.file}: {why}.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
