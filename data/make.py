"""Make sp500.csv and nasdaq.csv again, byte for byte, from the data sets inside the `arch` package.

    python data/make.py [folder]

Writes both files (into this folder by default) and prints their sha256 checksums, which are in README.md.
"""

import hashlib
import sys
from pathlib import Path

from arch.data import nasdaq, sp500


def make(folder: Path) -> None:
    """Write both files into a folder, and print their checksums."""
    for name, source in (("sp500", sp500), ("nasdaq", nasdaq)):
        # Indices are quoted in hundredths; arch's further decimals (1229.22998) are single-precision noise.
        text = source.load().to_csv(float_format="%.2f", lineterminator="\n", date_format="%Y-%m-%d")
        path = folder / f"{name}.csv"
        path.write_bytes(text.encode())
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
