"""The work of `benches/benches/scoring.rs` in PyTorch: 24 blocks of 1,000 samples of 8 x 1,024 in f32, one mean query.

Needs torch; prints seconds: median (smallest-largest) of five runs, in the memory's numbers, with no file read.
"""

import statistics
import sys
import time

import torch

torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
BLOCKS, SAMPLES, ROWS, COLS = 24, 1000, 8, 1024

decay = (1 + torch.arange(COLS)).sqrt().reciprocal()
train = [torch.randn(SAMPLES, ROWS, COLS) * decay for _ in range(BLOCKS)]
query = [torch.randn(ROWS, COLS) * decay for _ in range(BLOCKS)]


def identity(g, q):
    return g.flatten(1) @ q.flatten()


def cosine(g, q):
    return identity(g, q) / (g.flatten(1).norm(dim=1) * q.norm())


def datainf(g, q):
    g, q = g.flatten(1), q.flatten()
    squares = g.square().sum(1)
    damping = 0.1 * squares.mean() / q.numel()
    answer = (q - g.T @ ((g @ q) / (damping + squares)) / SAMPLES) / damping
    return g @ answer


def lissa(g, q):
    g, q = g.flatten(1), q.flatten()
    squares = g.square().sum(1)
    damping = 0.1 * squares.mean() / q.numel()
    scale = squares.mean() + damping
    answer = q
    for _ in range(10):
        answer = q + answer - (g.T @ (g @ answer) / SAMPLES + damping * answer) / scale
    return g @ answer


def factor(g):
    rows = g.flatten(0, 1)
    sums = rows.T @ rows / SAMPLES
    return sums + 0.1 * sums.trace() / COLS * torch.eye(COLS)


def hyperinf_cholesky(g, q):
    return identity(g, torch.cholesky_solve(q.T, torch.linalg.cholesky(factor(g))).T)


def hyperinf_authors(g, q):
    h = factor(g)
    x = 5e-4 * torch.eye(COLS)
    for _ in range(30):
        x = x + x - x @ (h @ x)
    return identity(g, q @ x)


def exact(g, q):
    g, q = g.flatten(1), q.flatten()
    gram, right = g @ g.T / SAMPLES, g @ q
    damping = 0.1 * gram.trace() / q.numel()
    answer = torch.linalg.solve(gram + damping * torch.eye(SAMPLES), right)
    return (right - gram @ answer) / damping


for method in (identity, cosine, datainf, lissa, hyperinf_cholesky, hyperinf_authors, exact):
    found = []
    for _ in range(5):
        start = time.perf_counter()
        torch.stack([method(g, q) for g, q in zip(train, query)]).sum(0)
        found.append(time.perf_counter() - start)
    print(f"| {method.__name__} | {statistics.median(found):.3f} ({min(found):.3f}-{max(found):.3f}) |", flush=True)
