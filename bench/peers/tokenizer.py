#!/usr/bin/env python3
"""braid's tokenizer and the tiktoken package on the same text, in turns, one thread each: megabytes per second of processor time.

  tokenizer.py PROGRAM MODEL_DIRECTORY TEXT_FILE [--rounds N]

PROGRAM is bench.tokenizer. Needs: pip install tiktoken regex numpy. A vocabulary comes from a checkpoint, or from
tests/reference/tokenizer.py train. The tokens must be the same before anything is timed.
"""
import argparse, json, os, pathlib, platform, re, statistics, subprocess, sys, time

import numpy
import tiktoken

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))
from tokenizer import Published  # noqa: E402

MB = 1e6


def braid(args):
    command = [args.program, str(args.model), str(args.text), "--benchmark_filter=^encode$", "--benchmark_format=json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, tokens, total = map(int, re.match(r"(\d+) bytes, (\d+) tokens, sum (\d+)", out).groups())
    (row,) = json.loads(out[out.index("{"):])["benchmarks"]
    return tokens, total, row["cpu_time"] / 1e3


def peer(published, text):
    begin = time.process_time()
    tokens = []
    for part in Published.parts(text):
        tokens += published.encoding.encode_ordinary(part)
    split_included = time.process_time() - begin
    begin = time.process_time()
    for part in published.blocks:
        published.encoding.encode_ordinary(part)
    return tokens, split_included, time.process_time() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    data = args.text.read_bytes()
    text, published = data.decode("utf-8", "replace"), Published(args.model)
    published.blocks = list(Published.parts(text))
    print("command:", " ".join(sys.argv))
    print(f"machine: {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}; tiktoken {tiktoken.__version__}; {len(data)} bytes")
    ours, theirs, whole = [], [], []
    for _ in range(args.rounds):
        count, total, seconds = braid(args)
        ours.append(len(data) / MB / seconds)
        tokens, with_cuts, seconds = peer(published, text)
        array = numpy.array(tokens, dtype=numpy.uint64)
        if (count, total) != (len(tokens), int((array * numpy.arange(1, len(array) + 1, dtype=numpy.uint64)).sum())):
            sys.exit("the tokens differ")
        theirs.append(len(data) / MB / seconds)
        whole.append(len(data) / MB / with_cuts)
    for name, values in [("braid", ours), ("tiktoken", theirs), ("tiktoken with the published cuts in Python", whole)]:
        print(f"{name:42} median {statistics.median(values):6.1f} MB/s   (from {min(values):.1f} to {max(values):.1f})")
    print(f"ratio {statistics.median(ours) / statistics.median(theirs):.1f}")


if __name__ == "__main__":
    main()
