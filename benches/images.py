"""The work of `benches/benches/images.rs` in PyTorch: vision encoders, and per-sample LoRA gradients of denoisers.

Needs torch, transformers, diffusers and peft; prints tables in Markdown: milliseconds, median (shortest-longest) of ten,
with the products of a run in GFLOP (PyTorch's own count), from which the rates of both programs follow.
"""

import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)


def timed(run, times=10):
    with FlopCounterMode(display=False) as counter:
        run()
    run()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - start))
    work, median = 1e-9 * counter.get_total_flops(), statistics.median(found)
    return f"{work:.2f} | {median:.2f} ({min(found):.2f}-{max(found):.2f}) | {1e3 * work / median:.0f}", median


def encoders():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    print("| encoder | GFLOP | ms | GFLOP/s |\n|---|---|---|---|")
    for name, size, patch, width, heads in [
        ("ViT-S, 112 pixels, 64 patches", 112, 14, 384, 6),
        ("ViT-B, 224 pixels, 196 patches", 224, 16, 768, 12),
        ("ViT-B, 512 pixels, 1024 patches", 512, 16, 768, 12),
    ]:
        config = SiglipVisionConfig(hidden_size=width, num_hidden_layers=12, num_attention_heads=heads, image_size=size,
                                    intermediate_size=4 * width, patch_size=patch, vision_use_head=False)
        model = SiglipVisionModel(config).eval()
        pixels = torch.randn(1, 3, size, size)
        with torch.no_grad():
            print(f"| {name} | {timed(lambda: model(pixel_values=pixels))[0]} |")


def adapted(model):
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    model = inject_adapter_in_model(config, model)
    seen = {}
    for name, layer in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            layer.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, [i[0].detach()]))
            layer.register_full_backward_hook(lambda m, i, o, name=name: seen[name].append(o[0]))
    return model, seen


def denoisers():
    from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

    def pixart(layers, heads, size, side, patch):
        return PixArtTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=size, in_channels=4, out_channels=8, num_layers=layers,
            cross_attention_dim=heads * size, sample_size=side, patch_size=patch, caption_channels=384,
            use_additional_conditions=False, interpolation_scale=1)

    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(320, 640), cross_attention_dim=768, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2)
    print("\n| denoiser | what | GFLOP | ms | GFLOP/s | versions/s |\n|---|---|---|---|---|---|")
    for name, model, versions, width in [
        ("PixArt 6 x 128, 64 patches", pixart(6, 4, 32, 32, 4), 5, 384),
        ("PixArt 4 x 1152, 256 patches", pixart(4, 16, 72, 32, 2), 1, 384),
        ("U-Net 320 and 640, 32 x 32", unet, 1, 768),
    ]:
        model, seen = adapted(model.eval())
        rows = 2 * versions
        x, text = torch.randn(rows, 4, 32, 32), torch.randn(rows, 16, width)
        steps = torch.tensor([100 + 150 * k for k in range(versions)] * 2)

        def loss():
            extra = {} if "U-Net" in name else {"added_cond_kwargs": {}}
            out = model(x, encoder_hidden_states=text, timestep=steps, **extra).sample[:, :4]
            return ((out - x) ** 2).mean(dim=(1, 2, 3)).sum() / versions

        def forward():
            with torch.no_grad():
                loss()

        def run():
            seen.clear()
            loss().backward()
            found = []
            for a, g in seen.values():
                a, g = (v.reshape(2, -1, v.shape[-1]) for v in (a, g))
                found.append(torch.einsum("nti,nto->nio", a, g))
            return found

        for what, work in [("forward", forward), ("per-sample gradients", run)]:
            text_of, median = timed(work)
            print(f"| {name} | {what} | {text_of} | {1e3 * rows / median:.1f} |")


if __name__ == "__main__":
    print(torch.__version__, f"{torch.get_num_threads()} threads")
    encoders()
    denoisers()
