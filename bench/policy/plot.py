#!/usr/bin/env python3
"""Draws what mlcache-policy-bench --json prints: hit rate by policy, one group of bars a trace and f.

    build/release/bin/mlcache-policy-bench --json | bench/policy/plot.py FILE.svg|FILE.png
"""
import json
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("plot.py: needs matplotlib (Debian: python3-matplotlib)")
matplotlib.use("Agg")
import matplotlib.pyplot as plot  # noqa: E402  (the backend is chosen first)


def main():
    if len(sys.argv) != 2 or not sys.argv[1].endswith((".svg", ".png")):
        sys.exit(__doc__)
    rows = [json.loads(line) for line in sys.stdin if line.strip()]
    if not rows:
        sys.exit("plot.py: nothing to draw on standard input")
    policies = [name for name in rows[0] if name not in ("trace", "f")]
    figure, axes = plot.subplots(figsize=(10, 0.32 * len(rows) + 1))
    for index, policy in enumerate(policies):
        axes.plot([row[policy] for row in rows], range(len(rows)), "os^vDP*Xd<"[index % 10], label=policy, alpha=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['trace']}, f={row['f']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("byte hit rate")
    axes.grid(alpha=0.3)
    axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(sys.argv[1], bbox_inches="tight")


main()
