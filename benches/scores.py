"""The work of `scores` in `benches/benches/gradients.rs` in PyTorch: a perceptron's plain forward and backward pass, hooks
that score each sample for one query without forming its gradient, hooks that form it, and vmap.

Needs torch; prints samples per second: median (smallest-largest) of ten runs over 4,096 samples.
"""

import statistics
import sys
import time

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
WIDTHS, BATCH, BATCHES = [784, 512, 256, 10], 128, 32

layers = []
for inputs, outputs in zip(WIDTHS, WIDTHS[1:]):
    layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers[:-1])
linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
x = torch.randn(BATCHES, BATCH, WIDTHS[0])
y = torch.arange(BATCH) % 10


def backward():
    for batch in x:
        model.zero_grad(set_to_none=True)
        cross_entropy(model(batch), y, reduction="sum").backward()


def hooked(use):
    seen = {}
    handles = [layer.register_forward_hook(lambda m, i, o: seen.__setitem__(m, [i[0].detach()])) for layer in linear]
    handles += [layer.register_full_backward_hook(lambda m, i, o: seen[m].append(o[0])) for layer in linear]
    model.requires_grad_(False)
    for batch in x:
        cross_entropy(model(batch.requires_grad_()), y, reduction="sum").backward()
        use([seen[layer] for layer in linear])
    model.requires_grad_(True)
    for handle in handles:
        handle.remove()


query = [torch.randn(w.in_features, w.out_features) for w in linear]


def score(captures):
    return sum(((a @ v) * d).sum(1) for (a, d), v in zip(captures, query))


def form(captures):
    return sum(torch.einsum("nio,io->n", torch.einsum("ni,no->nio", a, d), v) for (a, d), v in zip(captures, query))


def mapped():
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(weights, sample, label):
        return cross_entropy(functional_call(model, weights, sample[None]), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))
    for batch in x[:4]:
        found(weights, batch, y)


for name, run, batches in [
    ("forward and backward", backward, BATCHES),
    ("hooks that only score", lambda: hooked(score), BATCHES),
    ("hooks with outer products", lambda: hooked(form), BATCHES),
    ("vmap", mapped, 4),
]:
    run()
    found = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        found.append(batches * BATCH / (time.perf_counter() - start))
    print(f"| {name} | {statistics.median(found):,.0f} ({min(found):,.0f}-{max(found):,.0f}) |")
