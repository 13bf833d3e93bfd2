"""Correlations of metrics with accuracies over a part of a run's rows, for the analyses beside the suites: python subset.py RUN [WITHOUT ...]

Leaves out rows that saw labels and rows whose name begins with a WITHOUT. Prints Pearson's r and Spearman's rho of the means over seeds, and the
share of 20,000 random orders with an |r| and |rho| at least as large. Needs NumPy."""

import csv
import sys

import numpy as np

ACCURACIES = ["lp_top1", "ap_top1", "knn_top1", "ft_top1"]
METRICS = {
    "tcas": lambda r: r("tcas"),
    "tcas_below_null": lambda r: r("tcas_null") - r("tcas"),
    "bound": lambda r: r("bound"),
    "pnmi": lambda r: r("pnmi"),
    "pnmi_above_null": lambda r: r("pnmi") - r("pnmi_null"),
    "bag_top1": lambda r: r("bag_top1"),
    "rankme": lambda r: r("rankme"),
    "mi_left": lambda r: r("mi_left"),
}


def ranks(x):
    return np.array([np.mean(np.flatnonzero(np.sort(x) == v)) for v in x])


def correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    return x @ y / np.sqrt((x @ x) * (y @ y))


def tested(x, y, rng):
    r = correlation(x, y)
    orders = rng.permuted(np.tile(y, (20_000, 1)), axis=1)
    orders -= y.mean()
    x = x - x.mean()
    others = orders @ x / np.sqrt((x @ x) * (orders[0] @ orders[0]))
    return r, (1 + np.sum(np.abs(others) >= abs(r) - 1e-12)) / 20_001


run, without = sys.argv[1], tuple(sys.argv[2:])
rows = {}
for row in csv.DictReader(open(f"{run}/results.csv")):
    if row["saw_labels"] == "false" and row["tcas"] and not row["tokenizer"].startswith(without or ("\0",)):
        rows.setdefault(row["tokenizer"], []).append(row)
# Twelve digits, because the rounding of sums tells equal means apart.
mean = lambda seeds, name: float(f"{np.mean([float(row[name] or 'nan') for row in seeds]):.12g}")
print(f"{len(rows)} rows: {'; '.join(rows)}")
rng = np.random.default_rng(0)
for name, of in METRICS.items():
    x = np.array([round(of(lambda column: mean(seeds, column)), 12) for seeds in rows.values()])
    for accuracy in ACCURACIES:
        y = np.array([mean(seeds, accuracy) for seeds in rows.values()])
        used = ~np.isnan(x)
        (r, p), (rho, q) = tested(x[used], y[used], rng), tested(ranks(x[used]), ranks(y[used]), rng)
        print(f"{name:16} {accuracy:9} n={used.sum():2} r={r:+.2f} p={p:.4f}  rho={rho:+.2f} p={q:.4f}")
