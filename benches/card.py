"""The work of `benches/benches/card.rs` in PyTorch on the same card: products, copies, inverses, LoRA gradients.

Needs torch, transformers and peft; prints tables in Markdown: milliseconds, median (shortest-longest) of ten.
"""

import statistics
import sys
import time

import torch

device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
torch.manual_seed(0)


def sync():
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(run, times=10 if device.type == "cuda" else 2):
    for _ in range(2):
        run()
    sync()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        sync()
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found), f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def products(sizes):
    print("| product | ms | TFLOP/s |\n|---|---|---|")
    for d in sizes:
        for name, dtype, tf32 in [
            ("f32", torch.float32, False),
            ("tf32", torch.float32, True),
            ("bf16", torch.bfloat16, False),
            ("f64", torch.float64, False),
        ]:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            a, b = (torch.randn(d, d, device=device).to(dtype) for _ in range(2))
            median, text = timed(lambda: a @ b)
            print(f"| {name}, {d}^3 | {text} | {2e-9 * d**3 / median:.1f} |")
    torch.backends.cuda.matmul.allow_tf32 = False
    long = torch.rand(1 << 14, 1 << 14, device=device)
    median, text = timed(lambda: long * 1.5)
    print(f"\nScaling 1.07 GB: {text} ms, {2147 / median:.0f} GB/s\n")


def inverses(sizes):
    print("| d | method | ms |\n|---|---|---|")
    for d in sizes:
        rows = torch.randn(d // 4, d, device=device) / (1 + torch.arange(d, device=device)).sqrt()
        h = rows.T @ rows / (d / 4)
        top = torch.linalg.matrix_norm(h, 2).item()
        a = h + top / 1e4 * torch.eye(d, device=device)
        print(f"| {d} | Cholesky inverse | {timed(lambda: torch.cholesky_inverse(torch.linalg.cholesky(a)))[1]} |")

        def schulz():
            x = 2 / (top * (1 + 2e-4)) * torch.eye(d, device=device)
            for _ in range(30):
                x = x + x - x @ (a @ x)
            return x

        print(f"| {d} | Schulz, 30 unscaled steps | {timed(schulz, 5)[1]} |")


def adapted(model, names):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=names)).to(device)
    seen = {}
    for name, layer in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            layer.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, [i[0].detach()]))
            layer.register_full_backward_hook(lambda m, i, o, name=name: seen[name].append(o[0]))
    return model, seen


def lora(small):
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    print("\n| model | batch | per-sample gradients, ms | per second |\n|---|---|---|---|")
    bert = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model, seen = adapted(BertForSequenceClassification(bert).eval(), ["query", "value"])
    for samples in (2,) if small else (16, 256):
        ids = torch.randint(0, 30522, (samples, 64), device=device)
        labels = torch.arange(samples, device=device) % 2

        def run():
            seen.clear()
            torch.nn.functional.cross_entropy(model(input_ids=ids).logits, labels, reduction="sum").backward()
            return [torch.einsum("nti,nto->nio", a, g) for a, g in seen.values()]

        median, text = timed(run)
        print(f"| encoder | {samples} x 64 | {text} | {1e3 * samples / median:.0f} samples |")
    llama = LlamaConfig(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
                        num_key_value_heads=3, intermediate_size=1536, tie_word_embeddings=True)
    model, seen = adapted(LlamaForCausalLM(llama).eval(), ["q_proj", "v_proj"])
    for samples in (2,) if small else (8, 64):
        ids = torch.randint(0, 49152, (samples, 100), device=device)

        def run():
            seen.clear()
            logits = model(input_ids=ids, logits_to_keep=26).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -25:].flatten(), reduction="sum")
            loss.backward()
            return [torch.einsum("nti,nto->nio", a, g) for a, g in seen.values()]

        median, text = timed(run)
        print(f"| decoder | {samples} x 100 | {text} | {1e5 * samples / median:.0f} tokens |")


if __name__ == "__main__":
    # The processor only shows that the script runs.
    small = device.type == "cpu"
    sizes = [256] if small else [1024, 2048, 4096, 8192]
    print(torch.__version__, torch.cuda.get_device_name() if device.type == "cuda" else "processor")
    products(sizes)
    inverses(sizes)
    lora(small)
