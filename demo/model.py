"""The demo model's geometry and the start of its training."""

import torch
from torch import nn

from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.text.demo_text import TEXT_DIM, TEXT_LEN

CONFIG = WanConfig(dim=128, ffn_dim=384, num_heads=4, num_layers=6, text_dim=TEXT_DIM, text_len=TEXT_LEN)


@torch.no_grad()
def new_model(seed: int) -> CausalWan:
    """An untrained model that starts near v = x: what it reads as noise it gives back as noise."""
    torch.manual_seed(seed)
    model = CausalWan(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    patch = model.patch_embedding
    frame = torch.linalg.qr(torch.randn(CONFIG.dim, 64))[0]
    patch.weight.copy_(frame.view_as(patch.weight))
    nn.init.zeros_(patch.bias)
    # The head writes (row, column, channel) where the patch embedding reads (channel, row, column).
    model.head.head.weight.copy_(frame.T.view(16, 2, 2, CONFIG.dim).permute(1, 2, 0, 3).reshape(64, CONFIG.dim))
    model.head.head.weight.mul_(0.7)
    model.head.modulation.zero_()
    nn.init.normal_(model.time_projection[1].weight, std=0.01)
    for block in model.blocks:
        block.modulation.zero_()
        block.modulation[:, [2, 5]] = 0.5
        for out in (block.cross_attn.o, block.ffn[2]):
            out.weight.mul_(0.2)
    return model
