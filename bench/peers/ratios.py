#!/usr/bin/env python3
"""Prints as a table how many times faster than each peer bench.cuda_linear_attention was: ratios.py <its output> <peers' lines>.

A peer's line is `peer|what|heads|gate|microseconds`; it meets the row of the same what, heads and gate under the first heading that has one.
"""
import sys


def rows(path):
    """{(what, heads, gate): microseconds}, the first of each kept."""
    out = {}
    for line in open(path):
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 9 or not cells[2].isdigit():
            continue
        try:
            out.setdefault((cells[1], int(cells[2]), cells[3]), float(cells[4]))
        except ValueError:
            print(f"{cells[1]}, {cells[2]} heads: {cells[4]}")  # WRONG
    return out


def main(ours_path, peers_path):
    ours, peers = rows(ours_path), {}
    for line in open(peers_path):
        cells = line.strip().split("|")
        if len(cells) == 5:
            peers.setdefault(cells[0], {})[(cells[1], int(cells[2]), cells[3])] = float(cells[4])
    names = sorted(peers)
    print("\n## Ratios to peers, the same run\n")
    print("| shape | heads | gate | us |" + "".join(f" {name} us | {name} / ours |" for name in names))
    print("|---|---|---|---|" + "---|---|" * len(names))
    for key, us in ours.items():
        if not any(key in peers[name] for name in names):
            continue
        cells = [f" {peers[n][key]:.1f} | {peers[n][key] / us:.2f} |" if key in peers[n] else " | |" for n in names]
        print(f"| {key[0]} | {key[1]} | {key[2]} | {us:.1f} |" + "".join(cells))


if __name__ == "__main__":
    main(*sys.argv[1:])
