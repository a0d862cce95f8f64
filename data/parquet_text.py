# parquet_text.py - prints a text column of Parquet files as JSON lines
#
#   python3 data/parquet_text.py [--field text] FILE.parquet… | ./tokenize --input - --format jsonl …
#
# It reads a thousand rows at a time, so memory does not grow with the file. It needs pyarrow (pip install pyarrow). If a file
# cannot be read, the exit code is 2, and data/fetch.sh then keeps ./tokenize from using the incomplete text.
import argparse
import json
import os
import sys

try:
    import pyarrow.parquet as parquet
except ImportError:
    sys.exit(f"error: {sys.executable} has no pyarrow: {sys.executable} -m pip install pyarrow, in a virtual environment")


def texts(path, field):
    file = parquet.ParquetFile(path, pre_buffer=False)  # pre_buffer would hold all of the file in memory
    columns = file.schema_arrow.names
    if field not in columns:
        raise ValueError(f"there is no column {field}; --field names the column with the text: {', '.join(columns)}")
    for rows in file.iter_batches(batch_size=1000, columns=[field]):
        for text in rows.column(0).to_pylist():
            if text is not None and not isinstance(text, str):
                raise ValueError(f"column {field} holds {type(text).__name__}, expected str")
            yield text


def main():
    words = argparse.ArgumentParser(description="prints a text column of Parquet files as JSON lines")
    words.add_argument("--field", default="text", help="column that holds the text; left out: text")
    words.add_argument("files", nargs="+", metavar="FILE.parquet")
    asked = words.parse_args()
    empty = 0
    sys.stdout.reconfigure(encoding="utf-8")
    for path in asked.files:
        try:
            for text in texts(path, asked.field):
                if text is None:
                    empty += 1
                else:
                    sys.stdout.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has stopped and printed the reason
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (OSError, ValueError) as error:  # pyarrow's exceptions are derived from these
            print(f"error: {path}: {error}", file=sys.stderr)
            sys.exit(2)
    if empty:
        print(f"{empty} rows without text were left out", file=sys.stderr)


main()
